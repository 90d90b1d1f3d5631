//! The JSON Schema of a configuration, for editors. It knows the form: sections, keys, types
//! and words. What names mean, `serve --check` tells.

use serde_json::{Map, Value, json};

use super::keys::{EXPORT, EXPORT_KEYS, Key, SECTIONS, SectionKeys, Takes};

/// The schema, for a configuration as JSON; editors read TOML that way.
pub(crate) fn json_schema() -> Value {
    let sections = SECTIONS.iter();
    let mut sections: Map<String, Value> = sections
        .map(|keys| (keys.name.to_owned(), section(keys)))
        .collect();
    let exports = json!({
        "type": "object",
        "patternProperties": { "^[a-z0-9-]{1,32}$": section(&EXPORT_KEYS) },
        "additionalProperties": false,
    });
    sections.insert(EXPORT.to_owned(), exports);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "port-monitor configuration",
        "description": "What `port-monitor serve` does. The file is TOML 1.0.",
        "type": "object",
        "properties": sections,
        "additionalProperties": false,
        "dependentRequired": { EXPORT: ["history"] },
    })
}

fn section(keys: &SectionKeys) -> Value {
    let properties = keys.keys.iter();
    let properties: Map<String, Value> = properties
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    let required: Vec<Value> = keys.required().map(Value::from).collect();
    if let (false, Value::Object(schema)) = (required.is_empty(), &mut schema) {
        schema.insert("required".to_owned(), required.into());
    }
    let places = keys.places().map(|key| json!({ "required": [key.name] }));
    let places: Vec<Value> = places.collect();
    if let (false, Value::Object(schema)) = (places.is_empty(), &mut schema) {
        schema.insert("anyOf".to_owned(), places.into());
    }
    schema
}

fn property(key: &Key) -> Value {
    let item = item(key);
    let mut value = if key.takes_list {
        json!({ "anyOf": [item, { "type": "array", "minItems": 1, "items": item }] })
    } else {
        item
    };
    let help = key.arg.get_help().map(ToString::to_string);
    // That of a table is none of the service.
    let help = help.map(|help| match help.split_once(" [default") {
        Some((help, _)) => help.to_owned(),
        None => help,
    });
    if let (Value::Object(value), Some(help)) = (&mut value, help) {
        value.insert("description".to_owned(), help.into());
    }
    value
}

fn item(key: &Key) -> Value {
    let words = key.arg.get_possible_values();
    let words: Vec<&str> = words
        .iter()
        .map(clap::builder::PossibleValue::get_name)
        .collect();
    match key.takes {
        Takes::Switch | Takes::Truth => json!({ "type": "boolean" }),
        Takes::File => json!({ "type": "string", "pattern": "^/" }),
        Takes::Text if words.is_empty() => json!({ "type": "string", "minLength": 1 }),
        Takes::Text => json!({ "enum": words }),
        Takes::Number => json!({ "type": ["string", "integer"] }),
    }
}
