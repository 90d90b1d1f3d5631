//! The published JSON Schema, made of the types of the lines. It is made in tests only, and the
//! program has its text (`schema.json`): to make it costs more code than all lines are.
//!
//! What of a generated schema only its generator knows is said in words of the standard:
//! validators refuse a `format` that they do not know.

use std::borrow::Cow;

use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};
use serde_json::{Value, json};

use super::{
    JSON_SCHEMA, Line,
    words::{Spelled, Word},
};

/// Set, it has the test that compares the text write it.
const WRITE: &str = "WRITE_SCHEMA";

/// The schema of a line.
fn of_types() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let generator = settings.with_transform(Portable).into_generator();
    generator.into_root_schema_for::<Line<'static>>()
}

/// The published schema.
pub(crate) fn published() -> Value {
    serde_json::from_str(JSON_SCHEMA).unwrap()
}

#[test]
fn the_published_schema_is_that_of_the_types() {
    let schema = of_types();
    if std::env::var_os(WRITE).is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/events/wire/schema.json");
        // In the order that `Schema` gives its keywords, whatever a `Value` would give them.
        let text = serde_json::to_string_pretty(&schema).unwrap();
        std::fs::write(path, text + "\n").unwrap();
    } else {
        assert!(
            published() == schema.to_value(),
            "run `{WRITE}=1 cargo test -p port-monitor --lib published_schema`, \
             and commit src/events/wire/schema.json"
        );
    }
}

impl<T: Spelled> JsonSchema for Word<T> {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed(T::NAME)
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let choices = T::WORDS.iter().map(|spelling| {
            let mut choice = Schema::default();
            describe(&mut choice, spelling.doc);
            choice.insert("type".into(), json!("string"));
            choice.insert("const".into(), json!(spelling.word));
            choice
        });
        let mut choices: Vec<Schema> = choices.collect();
        let mut schema = if let [only] = &mut choices[..] {
            std::mem::take(only)
        } else {
            let mut schema = Schema::default();
            let choices = choices.into_iter().map(Value::from).collect();
            schema.insert("oneOf".into(), Value::Array(choices));
            schema
        };
        describe(&mut schema, T::DOC);
        schema
    }
}

/// Adds what a doc comment says, if there is one.
fn describe(schema: &mut Schema, doc: &str) {
    let lines: Vec<&str> = doc.lines().map(str::trim).collect();
    if !lines.is_empty() {
        schema.insert("description".into(), json!(lines.join(" ")));
    }
}

/// Formats of the standard that are kept. Ranges of numbers are said by `minimum` and
/// `maximum` too, or need not be said.
const FORMATS: [&str; 1] = ["date-time"];

/// Leaves in a schema, and in those within it, what every validator understands.
#[derive(Clone, Debug)]
struct Portable;

impl Transform for Portable {
    fn transform(&mut self, schema: &mut Schema) {
        // What a reader of ours takes where a line was cut down is no part of the format.
        schema.remove("default");
        translate_format(schema);
        leave_out_null(schema);
        transform_subschemas(self, schema);
    }
}

fn translate_format(schema: &mut Schema) {
    let format = schema.get("format").and_then(Value::as_str);
    if format.is_none_or(|format| FORMATS.contains(&format)) {
        return;
    }
    if let Some(Value::String(format)) = schema.remove("format")
        && format == "ip"
    {
        let families = json!([{ "format": "ipv4" }, { "format": "ipv6" }]);
        schema.insert("anyOf".into(), families);
    }
}

/// A field without a value is absent: none is ever null.
fn leave_out_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &mut **types {
            let only = only.take();
            schema.insert("type".into(), only);
        }
    }
    let Some(Value::Array(choices)) = schema.get_mut("anyOf") else {
        return;
    };
    choices.retain(|choice| *choice != json!({ "type": "null" }));
    if let [Value::Object(only)] = &mut **choices {
        let only = std::mem::take(only);
        schema.remove("anyOf");
        for (key, value) in only {
            schema.insert(key, value);
        }
    }
}
