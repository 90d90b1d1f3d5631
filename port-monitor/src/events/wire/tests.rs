//! What readers that infer types, and validators that are strict, ask of the schema.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::schema;

/// Which types each field has in any line, by its path: names with dots are taken for
/// objects, as indexes take them, and of an array its items count.
#[derive(Default)]
struct Fields {
    types: BTreeMap<String, BTreeSet<String>>,
}

impl Fields {
    fn of(schema: &Value) -> Self {
        let mut fields = Self::default();
        fields.add(schema, schema, "");
        fields
    }

    fn note(&mut self, path: &str, name: &str) {
        let types = self.types.entry(path.to_owned()).or_default();
        types.insert(name.to_owned());
    }

    fn add(&mut self, root: &Value, schema: &Value, path: &str) {
        if let Some(pointer) = schema["$ref"].as_str() {
            let target = root.pointer(pointer.strip_prefix('#').unwrap());
            self.add(root, target.unwrap(), path);
        }
        for choices in ["anyOf", "oneOf", "allOf"] {
            for choice in schema[choices].as_array().into_iter().flatten() {
                self.add(root, choice, path);
            }
        }
        for name in names(&schema["type"]) {
            if name != "array" {
                self.note(path, &name);
            }
        }
        if let Some(value) = schema.get("const") {
            self.note(path, if value.is_string() { "string" } else { "other" });
        }
        if let Some(items) = schema.get("items") {
            self.add(root, items, path);
        }
        for item in schema["prefixItems"].as_array().into_iter().flatten() {
            self.add(root, item, path);
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            self.add_field(root, field, path, name);
        }
        if schema["additionalProperties"].is_object() {
            self.add_field(root, &schema["additionalProperties"], path, "*");
        }
    }

    fn add_field(&mut self, root: &Value, field: &Value, path: &str, name: &str) {
        let mut path = path.to_owned();
        for part in name.split('.') {
            self.note(&path, "object");
            path = format!("{path}/{part}");
        }
        self.add(root, field, &path);
    }
}

fn names(types: &Value) -> Vec<String> {
    match types {
        Value::String(name) => vec![name.clone()],
        Value::Array(names) => names
            .iter()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn a_field_has_one_type_in_all_lines() {
    let fields = Fields::of(&schema::published());
    let several = fields.types.iter().filter(|(_, types)| types.len() != 1);
    assert_eq!(several.collect::<Vec<_>>(), []);
    let type_of = |path: &str| fields.types[path].iter().next().cloned();
    assert_eq!(type_of("/event/type").as_deref(), Some("string"));
    assert_eq!(
        type_of("/port_monitor/hooks/*/hit").as_deref(),
        Some("integer")
    );
    assert_eq!(
        type_of("/port_monitor/missing/process/pid").as_deref(),
        Some("string")
    );
    assert_eq!(
        type_of("/port_monitor/audit/closed").as_deref(),
        Some("integer")
    );
}

#[test]
fn a_field_that_has_two_types_is_found() {
    let schema = serde_json::json!({
        "anyOf": [
            { "$ref": "#/$defs/a" },
            { "type": "object", "properties": { "a": { "type": "array", "items": { "type": "string" } } } },
            { "type": "object", "properties": { "b": { "type": "string" } } },
            { "type": "object", "additionalProperties": { "type": "integer" } },
        ],
        "$defs": { "a": { "type": "object", "properties": {
            "a.x": { "type": "string" },
            "b": { "type": "integer" },
        } } },
    });
    let fields = Fields::of(&schema);
    let types = |path: &str| fields.types[path].iter().cloned().collect::<Vec<_>>();
    assert_eq!(types("/a"), ["object", "string"]);
    assert_eq!(types("/b"), ["integer", "string"]);
    assert_eq!(types("/*"), ["integer"]);
}

#[test]
fn no_format_is_our_own_and_nothing_is_null() {
    fn look(value: &Value) {
        if let Some(format) = value.get("format") {
            assert!(
                ["date-time", "ipv4", "ipv6"]
                    .iter()
                    .any(|known| format == known),
                "{value}"
            );
        }
        assert!(
            !names(&value["type"]).contains(&"null".to_owned()),
            "{value}"
        );
        match value {
            Value::Object(members) => members.values().for_each(look),
            Value::Array(items) => items.iter().for_each(look),
            _ => {}
        }
    }
    look(&schema::published());
}
