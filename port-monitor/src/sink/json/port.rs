//! The parts of a line that are the same for all events of a service, rendered once:
//! what is known of each port.

use super::line::Line;
use crate::{
    record::{PortClass, PortInfo, Ports, ServiceOrigin, ServiceStatus},
    sink::memo::Memo,
};

/// The texts of the ports last seen.
#[derive(Debug)]
pub(super) struct PortTexts(Memo<PortText, 256>);

/// What is known of a port.
#[derive(Debug)]
struct PortText {
    /// All that the text depends on: everything but the number.
    facts: PortInfo,
    /// The members of `local` or `remote`, and their end.
    end: Vec<u8>,
    /// The same of the port that names the service.
    service: Vec<u8>,
}

impl PortTexts {
    /// Nothing seen yet.
    pub(super) fn new() -> Self {
        Self(Memo::new())
    }

    /// Both ends, and the one that names the service.
    pub(super) fn push(
        &mut self,
        line: &mut Line<'_>,
        ports: &Ports,
        service_port: Option<&PortInfo>,
    ) {
        if let Some(local) = &ports.local {
            line.raw(r#","local":{"#);
            line.rendered(&self.text(local).end);
        }
        if let Some(remote) = &ports.remote {
            line.raw(r#","remote":{"#);
            line.rendered(&self.text(remote).end);
        }
        if let Some(port) = service_port {
            line.rendered(&self.text(port).service);
        }
    }

    fn text(&mut self, port: &PortInfo) -> &PortText {
        let facts = PortInfo { port: 0, ..*port };
        // Clients' ports are many, and hardly one has a name.
        let hash = match port.service {
            Some(_) => port.port.into(),
            None => usize::from(port.ephemeral),
        };
        self.0
            .get(hash, |text| text.facts == facts, || PortText::new(facts))
    }
}

impl PortText {
    fn new(facts: PortInfo) -> Self {
        let (mut end, mut service) = (Vec::new(), Vec::new());
        push_port(&mut Line(&mut end), &facts);
        let mut line = Line(&mut service);
        line.raw(",");
        push_service(&mut line, &facts);
        line.raw(",");
        push_class(&mut line, facts.class);
        Self {
            facts,
            end,
            service,
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
    match class {
        PortClass::WellKnown => line.raw(r#""port_class":"well-known""#),
        PortClass::Registered => line.raw(r#""port_class":"registered""#),
        PortClass::Dynamic => line.raw(r#""port_class":"dynamic""#),
    }
}

fn push_service(line: &mut Line<'_>, port: &PortInfo) {
    line.raw(r#""service":{"#);
    if let Some((name, origin)) = port.service {
        line.raw(r#""name":"#);
        line.string(name);
        match origin {
            ServiceOrigin::Policy => line.raw(r#","origin":"policy","#),
            ServiceOrigin::DeFacto => line.raw(r#","origin":"de-facto","#),
            ServiceOrigin::Iana => line.raw(r#","origin":"iana","#),
        }
    }
    match port.status {
        ServiceStatus::Assigned => line.raw(r#""status":"assigned"}"#),
        ServiceStatus::Reserved => line.raw(r#""status":"reserved"}"#),
        ServiceStatus::Unassigned => line.raw(r#""status":"unassigned"}"#),
    }
}
