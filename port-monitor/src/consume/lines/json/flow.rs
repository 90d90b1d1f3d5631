//! The part of a line that is the same for all events of a connection, rendered once: both
//! ends and their community ID. An attempt, its outcome, its end, and the accept on this host
//! share one.

use std::net::IpAddr;

use super::{ip::IpTexts, line::Line};
use crate::{base::memo::Memo, events::community_id::CommunityId};

/// Room for the text of a connection between IPv4 addresses, and between most others.
const ROOM: usize = 192;

/// An address, and a port unless the kernel has not chosen it yet.
pub(crate) type End = (IpAddr, Option<u16>);

/// An address and a port that is chosen.
type Endpoint = (IpAddr, u16);

/// The texts of the connections last seen.
#[derive(Debug)]
pub(crate) struct FlowTexts {
    texts: Memo<FlowText, 256>,
    ips: IpTexts,
}

/// What is told of a connection.
#[derive(Debug)]
struct FlowText {
    /// Both are all that the text depends on.
    source: Endpoint,
    destination: Endpoint,
    text: Vec<u8>,
    /// Where the text of the source ends.
    middle: usize,
}

impl FlowTexts {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Self {
            texts: Memo::new(),
            ips: IpTexts::new(),
        }
    }

    /// From the community ID to the end of `destination`, but for its brace, with the bytes
    /// that both have sent.
    pub(crate) fn push(
        &mut self,
        line: &mut Line<'_>,
        source: End,
        destination: End,
        sent: Option<(u64, u64)>,
    ) {
        if let ((source, Some(source_port)), (destination, Some(destination_port))) =
            (source, destination)
        {
            let flow = self.text((source, source_port), (destination, destination_port));
            let Some((by_source, by_destination)) = sent else {
                return line.rendered(&flow.text);
            };
            let (source, destination) = flow.text.split_at_checked(flow.middle).unwrap_or_default();
            line.rendered(source);
            push_bytes(line, Some(by_source));
            line.rendered(destination);
            return push_bytes(line, Some(by_destination));
        }
        let (by_source, by_destination) = sent.unzip();
        line.raw(r#"},"source":{"ip":""#);
        push_end(line, &mut self.ips, source);
        push_bytes(line, by_source);
        line.raw("}");
        self.push_destination(line, destination);
        push_bytes(line, by_destination);
    }

    /// `destination`, after a comma and but for its brace.
    pub(crate) fn push_destination(&mut self, line: &mut Line<'_>, end: End) {
        line.raw(r#","destination":{"ip":""#);
        push_end(line, &mut self.ips, end);
    }

    fn text(&mut self, source: Endpoint, destination: Endpoint) -> &FlowText {
        let Self { texts, ips } = self;
        texts.get_or_remake(
            usize::from(source.1 ^ destination.1),
            |known| known.source == source && known.destination == destination,
            |other| {
                let room = other.map_or_else(|| Vec::with_capacity(ROOM), |other| other.text);
                FlowText::new(source, destination, ips, room)
            },
        )
    }
}

impl FlowText {
    /// Renders into `text`, which is only room.
    fn new(source: Endpoint, destination: Endpoint, ips: &mut IpTexts, mut text: Vec<u8>) -> Self {
        text.clear();
        let mut line = Line(&mut text);
        line.raw(r#","community_id":""#);
        line.raw_bytes(&CommunityId::of(source, destination).text());
        line.raw(r#""},"source":{"ip":""#);
        push_end(&mut line, ips, (source.0, Some(source.1)));
        let middle = text.len();
        let mut line = Line(&mut text);
        line.raw(r#"},"destination":{"ip":""#);
        push_end(&mut line, ips, (destination.0, Some(destination.1)));
        Self {
            source,
            destination,
            text,
            middle,
        }
    }
}

/// The address and the port of an end, after the quotation mark before the address.
fn push_end(line: &mut Line<'_>, ips: &mut IpTexts, (ip, port): End) {
    ips.push(line, ip);
    match port {
        Some(port) => {
            line.raw(r#"","port":"#);
            line.u16(port);
        }
        None => line.raw("\""),
    }
}

fn push_bytes(line: &mut Line<'_>, bytes: Option<u64>) {
    if let Some(bytes) = bytes {
        line.raw(r#","bytes":"#);
        line.number(bytes);
    }
}
