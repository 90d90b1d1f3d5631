//! The JSON Schema of a policy file, for editors. It knows the form: keys, types,
//! words. What names mean, and what rules decide, `policy check` tells.
//!
//! Tests hold its keys and words to those the parser knows.

use port_monitor_common::policy::OwnerCondition;
use serde_json::{Map, Value, json};

use crate::policy::conditions::{About, about};

/// The schema, for a policy as JSON; editors read TOML that way.
pub fn json_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "port-monitor policy",
        "description": "Rules are tried from top to bottom and the first match decides; \
            what no rule matches is decided by the default of its direction. The file is \
            TOML 1.0.",
        "type": "object",
        "properties": {
            "version": { "const": 1, "description": "Of the policy language." },
            "mode": {
                "enum": ["observe", "enforce"],
                "description": "Report what the policy denies, or deny it.",
            },
            "default": defaults(),
            "apply": apply(),
            "failsafe": failsafe(),
            "networks": {
                "description": "Networks by the names that `from` and `to` use.",
                "type": "object",
                "propertyNames": { "$ref": "#/$defs/name" },
                "additionalProperties": one_or_more(&json!({ "anyOf": [
                    { "$ref": "#/$defs/network" },
                    { "$ref": "#/$defs/network_list" },
                ] })),
            },
            "services": {
                "description": "Services by the names that `service` uses, before those of \
                    the IANA registry.",
                "type": "object",
                "propertyNames": { "$ref": "#/$defs/name" },
                "additionalProperties": one_or_more(&json!({
                    "type": "string",
                    "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?/(tcp|udp)$",
                })),
            },
            "rule": { "type": "array", "items": { "$ref": "#/$defs/rule" } },
        },
        "required": ["version"],
        "additionalProperties": false,
        "$defs": definitions(),
    })
}

/// A table of these keys and no others.
fn table(description: &str, properties: &Value, required: &[&str]) -> Value {
    json!({
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// A list, or the one value in its place.
fn one_or_more(item: &Value) -> Value {
    let list = json!({ "type": "array", "minItems": 1, "items": item });
    json!({ "anyOf": [item, list] })
}

fn defaults() -> Value {
    let action = || json!({ "$ref": "#/$defs/action" });
    let loopback = json!({
        "enum": ["allow", "filter"],
        "description": "Whether the default spares peers on loopback.",
    });
    table(
        "What decides a connection that no rule matches.",
        &json!({
            "inbound": table(
                "Peers that connect to this host.",
                &json!({
                    "action": action(),
                    "style": {
                        "enum": ["reset", "drop"],
                        "description": "Deny as a closed port does, or by silence.",
                    },
                    "loopback": loopback.clone(),
                }),
                &["action"],
            ),
            "outbound": table(
                "Peers that this host connects to.",
                &json!({
                    "action": action(),
                    "style": { "enum": ["error"], "description": "Deny by an error." },
                    "loopback": loopback,
                }),
                &["action"],
            ),
            "listen": table(
                "Sockets that listen.",
                &json!({
                    "action": action(),
                    "style": { "enum": ["error"], "description": "Deny by an error." },
                }),
                &["action"],
            ),
        }),
        &[],
    )
}

fn apply() -> Value {
    table(
        "What happens when the policy begins and ends to be enforced.",
        &json!({
            "established": {
                "enum": ["kill", "keep"],
                "description": "Connections that the new policy denies.",
            },
            "on_daemon_exit": {
                "description": "What comes when `apply --follow` does not run any more.",
                "anyOf": [
                    { "$ref": "#/$defs/on_daemon_exit" },
                    { "type": "string", "pattern": "^(open|closed)-after-.+$" },
                ],
            },
            "confirm": {
                "type": "string",
                "minLength": 1,
                "description": "How long to wait for a confirmation, such as \"60s\".",
            },
        }),
        &[],
    )
}

fn failsafe() -> Value {
    let entry = || {
        let mut properties = conditions();
        // It asks nothing of owners.
        let is_of_owner = |key: &str| OwnerCondition::ALL.iter().any(|of| of.key() == key);
        properties.retain(|key, _| !is_of_owner(key));
        one_or_more(&json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
            "allOf": [service_or_port()],
        }))
    };
    table(
        "Connections that no rule may deny.",
        &json!({ "inbound": entry(), "outbound": entry() }),
        &[],
    )
}

/// What a rule may ask of a connection.
fn conditions() -> Map<String, Value> {
    let described = |item: &str, description: &str| {
        let mut list = one_or_more(&json!({ "$ref": format!("#/$defs/{item}") }));
        if let Some(list) = list.as_object_mut() {
            list.insert("description".to_owned(), description.into());
        }
        list
    };
    let owners = OwnerCondition::ALL.map(|condition| {
        let About {
            entry, description, ..
        } = about(condition);
        (condition.key(), described(entry, description))
    });
    let peers = "Networks of the policy, addresses, CIDRs, or `self` for this host.";
    [
        (
            "service",
            described(
                "text",
                "Services, by the names of the IANA registry or of [services].",
            ),
        ),
        (
            "port",
            described(
                "port",
                "Ports of the service: local ones, or remote ones with direction `out`.",
            ),
        ),
        ("proto", described("proto", "Transports.")),
        ("from", described("text", peers)),
        ("to", described("text", peers)),
    ]
    .into_iter()
    .chain(owners)
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn service_or_port() -> Value {
    json!({ "not": { "required": ["service", "port"] } })
}

fn rule() -> Value {
    let mut properties = conditions();
    let more = json!({
        "name": {
            "$ref": "#/$defs/name",
            "description": "Unique in the policy; not `default`.",
            "not": { "pattern": "^[Dd][Ee][Ff][Aa][Uu][Ll][Tt]$" },
        },
        "direction": {
            "enum": ["in", "out", "listen"],
            "description": "A peer connects to this host, this host connects to it, or a \
                socket listens.",
        },
        "action": { "$ref": "#/$defs/action" },
        "alert": {
            "enum": ["none", "low", "high"],
            "description": "How loud a match is, whatever the action.",
        },
        "until": {
            "type": "string",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ].*([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)\
                (\\[.+\\])?$",
            "description": "The rule ends then, such as 2027-01-31T00:00:00Z.",
        },
    });
    if let Value::Object(more) = more {
        properties.extend(more);
    }
    let without = |directions: &[&str], key: &str| {
        json!({
            "if": { "properties": { "direction": { "enum": directions } } },
            "then": { "properties": { key: false } },
        })
    };
    json!({
        "type": "object",
        "properties": properties,
        "required": ["name", "direction", "action"],
        "additionalProperties": false,
        "allOf": [
            service_or_port(),
            without(&["out", "listen"], "from"),
            without(&["in", "listen"], "to"),
        ],
    })
}

fn definitions() -> Value {
    json!({
        "on_daemon_exit": { "enum": ["enforce", "open-after-60s", "closed"] },
        "action": { "enum": ["allow", "deny"] },
        "name": {
            "type": "string",
            "maxLength": 64,
            "pattern": "^[A-Za-z0-9._-]*[A-Za-z][A-Za-z0-9._-]*$",
            "not": { "const": "self" },
        },
        "network": { "type": "string", "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$" },
        "network_list": {
            "description": "A file with an address or a CIDR a line, comments after # or ;, its \
                path relative to the policy's directory.",
            "type": "object",
            "properties": { "file": { "type": "string", "minLength": 1 } },
            "required": ["file"],
            "additionalProperties": false,
        },
        "path": { "type": "string", "pattern": "^/" },
        "port": { "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            {
                "type": "string",
                "pattern": "^([0-9]{1,5}(-[0-9]{1,5})?|well-known|registered|dynamic)$",
            },
        ] },
        "proto": { "enum": ["tcp", "udp"] },
        "rule": rule(),
        "text": { "type": "string", "minLength": 1 },
        "unit": { "type": "string", "maxLength": 255, "anyOf": [
            { "pattern": "^[A-Za-z0-9:_.\\\\@*?-]+\\.(service|scope|slice|socket|mount|swap)$" },
            {
                "pattern": "^[A-Za-z0-9:_.\\\\@-]+$",
                "not": { "pattern":
                    "\\.(service|scope|slice|socket|mount|swap|target|timer|path|device|automount)$"
                },
            },
        ] },
        "user": { "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": 4_294_967_294_u32 },
            { "type": "string", "minLength": 1 },
        ] },
    })
}
