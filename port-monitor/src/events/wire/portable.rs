//! What of a generated schema only its generator knows, said in words of the standard:
//! validators refuse a `format` that they do not know.

use schemars::{
    Schema,
    transform::{Transform, transform_subschemas},
};
use serde_json::{Value, json};

/// Formats of the standard that are kept. Ranges of numbers are said by `minimum` and
/// `maximum` too, or need not be said.
const FORMATS: [&str; 1] = ["date-time"];

/// Leaves in a schema, and in those within it, what every validator understands.
#[derive(Clone, Debug)]
pub(crate) struct Portable;

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
