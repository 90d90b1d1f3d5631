//! The JSON Schema against the parser: the same keys and words, the same verdict on
//! policies whose form is right or wrong.

use std::collections::BTreeSet;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use super::parse;
use crate::policy::text::{problem::Problem, schema::json_schema};

/// The problems of a policy's text.
fn problems(text: &str) -> Vec<Problem> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid
            .diagnostics
            .into_iter()
            .map(|diagnostic| diagnostic.problem)
            .collect(),
    }
}

/// The policy with `line` in the table that is at `pointer` of the schema.
const TABLES: [(&str, &str, &str); 8] = [
    ("", "LINE", ""),
    ("/properties/default", "[default]\nLINE", ""),
    (
        "/properties/default/properties/inbound",
        "[default.inbound]\nLINE",
        "action = \"allow\"",
    ),
    (
        "/properties/default/properties/outbound",
        "[default.outbound]\nLINE",
        "action = \"allow\"",
    ),
    (
        "/properties/default/properties/listen",
        "[default.listen]\nLINE",
        "action = \"allow\"",
    ),
    ("/properties/apply", "[apply]\nLINE", ""),
    ("/properties/failsafe", "[failsafe]\nLINE", ""),
    (
        "/properties/failsafe/properties/inbound/anyOf/0",
        "[failsafe.inbound]\nLINE",
        "",
    ),
];

const RULE: (&str, &str) = ("/$defs/rule", "[[rule]]\nLINE");

#[test]
fn keys_are_those_of_the_parser_table_by_table() {
    let schema = json_schema();
    let tables = TABLES.map(|(pointer, table, _)| (pointer, table));
    for (pointer, table) in tables.into_iter().chain([RULE]) {
        let text = format!("version = 1\n{}\n", table.replace("LINE", "zz = 1"));
        let known = problems(&text)
            .into_iter()
            .find_map(|problem| match problem {
                Problem::UnknownKey { known, .. } => Some(known),
                _ => None,
            });
        let known: BTreeSet<&str> = known.unwrap().iter().copied().collect();
        let table = schema.pointer(pointer).unwrap();
        let keys = table["properties"].as_object().unwrap().keys();
        assert_eq!(
            keys.map(String::as_str).collect::<BTreeSet<_>>(),
            known,
            "{pointer}"
        );
        assert_eq!(table["additionalProperties"], false, "{pointer}");
    }
}

#[test]
fn words_are_those_of_the_parser() {
    let schema = json_schema();
    let mut found = 0;
    let rule = (RULE.0, RULE.1, "");
    for (pointer, table, rest) in TABLES.into_iter().chain([rule]) {
        let keys = schema.pointer(&format!("{pointer}/properties")).unwrap();
        for (key, value) in keys.as_object().unwrap() {
            let line = format!("{key} = \"zz\"\n{rest}");
            let text = format!("version = 1\n{}\n", table.replace("LINE", &line));
            let choices = problems(&text)
                .into_iter()
                .find_map(|problem| match problem {
                    Problem::NotAChoice { choices, value } if value == "zz" => Some(choices),
                    _ => None,
                });
            let reference = ["$ref", "anyOf"].iter().find_map(|key| value.get(key));
            let name = reference.and_then(|reference| match reference {
                Value::Array(all) => all[0]["$ref"].as_str(),
                reference => reference.as_str(),
            });
            let value = name.map_or(value, |name| schema.pointer(&name[1..]).unwrap());
            let words = value.get("enum").map(|words| {
                let words = words.as_array().unwrap().iter();
                words.map(|word| word.as_str().unwrap()).collect::<Vec<_>>()
            });
            // An action that is there already is a syntax error.
            if key == "action" && !rest.is_empty() {
                continue;
            }
            let choices = choices.as_ref().map(|choices| {
                let choices = choices.iter().map(AsRef::as_ref);
                choices.collect::<Vec<&str>>()
            });
            assert_eq!(choices, words, "{pointer} {key}");
            found += usize::from(words.is_some());
        }
    }
    assert_eq!(found, 13);
}

/// TOML as an editor hands it to the schema: times are text.
fn as_json(value: &toml::Value) -> Value {
    match value {
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(array) => array.iter().map(as_json).collect(),
        toml::Value::Table(table) => {
            let entries = table
                .iter()
                .map(|(key, value)| (key.clone(), as_json(value)));
            Value::Object(entries.collect())
        }
        other => serde_json::to_value(other).unwrap(),
    }
}

fn accepts(schemas: &Schemas, index: SchemaIndex, text: &str) -> bool {
    let table: toml::Table = toml::from_str(text).unwrap();
    let instance = as_json(&toml::Value::Table(table));
    schemas.validate(&instance, index).is_ok()
}

#[test]
fn schema_takes_what_the_parser_takes_and_refuses_a_wrong_form() {
    let mut compiler = Compiler::new();
    compiler.add_resource("policy.json", json_schema()).unwrap();
    let mut schemas = Schemas::new();
    let index = compiler.compile("policy.json", &mut schemas).unwrap();
    let everything = "version = 1\nmode = \"observe\"\n[apply]\nestablished = \"kill\"\n\
        on_daemon_exit = \"open-after-90s\"\nconfirm = \"60s\"\n[failsafe]\ninbound = [{ service = \"ssh\", from = \"10.0.0.0/8\" }]\n\
        outbound = { port = 53 }\n[networks]\nten = [\"10.0.0.0/8\", \"fc00::/7\"]\n[services]\n\
        db = \"5432-5433/tcp\"\n[[rule]]\nname = \"a.b\"\ndirection = \"out\"\naction = \"allow\"\n\
        port = [80, \"8000-8100\", \"registered\"]\nto = [\"ten\", \"self\"]\nuser = [0, \"app\"]\n\
        unit = [\"app.service\", \"web\", \"a*.slice\"]\ncgroup = \"/\"\nexe = \"/bin/a\"\nproto = [\"tcp\", \"udp\"]\n\
        alert = \"low\"\nuntil = 2027-01-31T00:00:00Z\n";
    let examples = [
        everything,
        include_str!("../../../../examples/policy.toml"),
        include_str!("../../../../examples/policy.new.toml"),
    ];
    for good in examples {
        assert_eq!(problems(good), [], "{good}");
        assert!(accepts(&schemas, index, good), "{good}");
    }
    let rule = "version = 1\n[[rule]]\nname = \"a\"\ndirection = \"out\"\naction = \"allow\"\n";
    let bad_rules = [
        "service = \"ssh\"\nport = 22",
        "from = \"self\"",
        "port = 0",
        "port = 65536",
        "port = []",
        "port = \"ssh\"",
        "user = -1",
        "unit = \"app*\"",
        "unit = \"app.timer\"",
        "unit = \"a b\"",
        "exe = \"bin/a\"",
        "until = 2027-01-31",
        "until = \"tomorrow\"",
        "alert = \"loud\"",
        "comm = \"a\"",
        "proto = \"icmp\"",
    ];
    let bad_rules = bad_rules.map(|line| format!("{rule}{line}\n"));
    let bad_files = [
        "mode = \"observe\"\n",
        "version = 2\n",
        "version = 1\nmod = \"observe\"\n",
        "version = 1\n[default]\ninbound = { style = \"drop\" }\n",
        "version = 1\n[default]\nlisten = { action = \"deny\", loopback = \"filter\" }\n",
        "version = 1\n[failsafe]\ninbound = { user = 0 }\n",
        "version = 1\n[networks]\nself = \"10.0.0.0/8\"\n",
        "version = 1\n[networks]\na = \"localhost\"\n",
        "version = 1\n[services]\na = \"80\"\n",
        "version = 1\n[[rule]]\nname = \"1\"\ndirection = \"out\"\naction = \"allow\"\n",
        "version = 1\n[[rule]]\nname = \"a\"\ndirection = \"listen\"\naction = \"deny\"\nto = \"self\"\n",
        "version = 1\n[[rule]]\nname = \"a\"\ndirection = \"out\"\n",
    ];
    for bad in bad_rules.iter().map(String::as_str).chain(bad_files) {
        assert_ne!(problems(bad), [], "{bad}");
        assert!(!accepts(&schemas, index, bad), "{bad}");
    }
}
