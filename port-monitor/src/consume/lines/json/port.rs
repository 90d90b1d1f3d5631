//! The part of a line that is the same for all connections to a service, rendered once:
//! what is known of both ports.

use std::ptr;

use super::line::Line;
use crate::{
    base::memo::Memo,
    events::record::{PortClass, PortInfo, Ports},
};

/// The texts of the ports last seen.
#[derive(Debug)]
pub(crate) struct PortTexts(Memo<PortText, 256>);

/// What is known of both ports of a connection.
#[derive(Debug)]
struct PortText {
    /// All that the text depends on: everything but the numbers.
    facts: Ports,
    /// The local port names the service, if one does.
    is_local: bool,
    text: Vec<u8>,
}

impl PortTexts {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Self(Memo::new())
    }

    /// Both ends, and what the one tells that names the service: the local one, if
    /// `is_local`.
    pub(crate) fn push(&mut self, line: &mut Line<'_>, ports: &Ports, is_local: bool) {
        let text = self.0.get(
            hash(ports.local.as_ref()) ^ hash(ports.remote.as_ref()) << 1,
            |text| {
                text.is_local == is_local
                    && is_same(text.facts.local.as_ref(), ports.local.as_ref())
                    && is_same(text.facts.remote.as_ref(), ports.remote.as_ref())
            },
            || PortText::new(*ports, is_local),
        );
        line.rendered(&text.text);
    }
}

/// Clients' ports are many, and hardly one has a name.
fn hash(port: Option<&PortInfo>) -> usize {
    match port {
        Some(port) if port.service.is_some() => port.port.into(),
        Some(port) => port.ephemeral.into(),
        None => 2,
    }
}

/// Both are the same but for the number. Names are compared by where they are: each is
/// in one place.
fn is_same(one: Option<&PortInfo>, other: Option<&PortInfo>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            one.class == other.class
                && one.status == other.status
                && one.ephemeral == other.ephemeral
                && match (one.service, other.service) {
                    (Some((one, from)), Some((other, other_from))) => {
                        ptr::eq(one, other) && from == other_from
                    }
                    (None, None) => true,
                    _ => false,
                }
        }
        (None, None) => true,
        _ => false,
    }
}

impl PortText {
    fn new(facts: Ports, is_local: bool) -> Self {
        let mut text = Vec::new();
        let mut line = Line(&mut text);
        if let Some(local) = &facts.local {
            line.raw(r#","local":{"#);
            push_port(&mut line, local);
        }
        if let Some(remote) = &facts.remote {
            line.raw(r#","remote":{"#);
            push_port(&mut line, remote);
        }
        let named = if is_local { facts.local } else { facts.remote };
        if let Some(port) = &named {
            line.raw(",");
            push_service(&mut line, port);
            line.raw(",");
            push_class(&mut line, port.class);
        }
        Self {
            facts,
            is_local,
            text,
        }
    }
}

fn push_port(line: &mut Line<'_>, port: &PortInfo) {
    push_class(line, port.class);
    line.raw(",");
    push_service(line, port);
    line.raw(r#","ephemeral":"#);
    line.bool(port.ephemeral);
    line.raw("}");
}

fn push_class(line: &mut Line<'_>, class: PortClass) {
    line.raw(r#""port_class":""#);
    line.word(class);
}

fn push_service(line: &mut Line<'_>, port: &PortInfo) {
    line.raw(r#""service":{"#);
    if let Some((name, origin)) = port.service {
        line.raw(r#""name":"#);
        line.string(name);
        line.raw(r#","origin":""#);
        line.word(origin);
        line.raw(",");
    }
    line.raw(r#""status":""#);
    line.word(port.status);
    line.raw("}");
}

#[cfg(test)]
mod tests {
    use crate::{
        consume::lines::json::port::*,
        events::record::{ServiceOrigin, ServiceStatus},
    };

    fn text(texts: &mut PortTexts, port: u16, name: &'static str) -> String {
        let remote = PortInfo {
            port,
            class: PortClass::WellKnown,
            service: Some((name, ServiceOrigin::Iana)),
            status: ServiceStatus::Assigned,
            ephemeral: false,
        };
        let ports = Ports {
            local: None,
            remote: Some(remote),
        };
        let mut out = Vec::new();
        texts.push(&mut Line(&mut out), &ports, false);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn services_that_share_a_place_keep_their_names() {
        let texts = &mut PortTexts::new();
        for (port, name) in [(1, "one"), (129, "other"), (1, "one")] {
            let name_of_end =
                format!(r#","remote":{{"port_class":"well-known","service":{{"name":"{name}","#);
            assert!(text(texts, port, name).starts_with(&name_of_end), "{name}");
        }
    }
}
