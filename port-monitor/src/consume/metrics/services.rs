//! Connections by service. There are as many services as ports, and each label of its own is a
//! series that somebody has to keep: so only some have one, and the others are counted together.

use std::{borrow::Cow, iter};

use crate::events::{decode::Direction, record::PortInfo};

/// Services that have a label because they came first.
pub(super) const FIRST: usize = 48;
/// Services that have one because they came often.
pub(super) const OFTEN: usize = 16;
/// So many connections are often.
pub(super) const IS_OFTEN: u8 = 100;

/// What all others are called.
pub(super) const OTHER: &str = "other";

/// The label of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    /// That of all others: so many connections came there.
    Other(u8),
    /// The one at this place.
    Own(u8),
}

/// The labels of all ports.
#[derive(Debug)]
pub(super) struct Labels(Box<[Label]>);

impl Labels {
    pub(super) fn new() -> Self {
        Self(iter::repeat_n(Label::Other(0), 1 << 16).collect())
    }

    /// Counts a connection to this port. A label that was given is never taken back: its count
    /// would begin anew.
    pub(super) fn count(&mut self, port: &PortInfo, by: Direction, counts: &mut Connections) {
        let Some(label) = self.0.get_mut(usize::from(port.port)) else {
            return;
        };
        if let Label::Other(count) = label {
            *count = count.saturating_add(1);
            let is_often = *count == IS_OFTEN;
            if (*count == 1 || is_often)
                && let Some(place) = counts.place(port, is_often)
            {
                *label = Label::Own(place);
            }
        }
        let own = match label {
            Label::Own(place) => counts.own.get_mut(usize::from(*place)),
            Label::Other(_) => None,
        };
        let count = own.map_or(&mut counts.other, |(_, count)| count);
        count.add(by, 1);
    }
}

/// A number for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByDirection {
    pub(super) inbound: u64,
    pub(super) outbound: u64,
}

impl ByDirection {
    pub(super) const fn add(&mut self, direction: Direction, number: u64) {
        match direction {
            Direction::Inbound => self.inbound += number,
            Direction::Outbound => self.outbound += number,
        }
    }

    /// As many more.
    pub(super) const fn add_all(&mut self, more: Self) {
        self.inbound += more.inbound;
        self.outbound += more.outbound;
    }

    /// One less in this direction.
    pub(super) const fn subtract(&mut self, direction: Direction) {
        match direction {
            Direction::Inbound => self.inbound -= 1,
            Direction::Outbound => self.outbound -= 1,
        }
    }

    /// Each with the label of its direction.
    pub(super) const fn labelled(self) -> [(&'static str, u64); 2] {
        [("inbound", self.inbound), ("outbound", self.outbound)]
    }
}

/// Connections that were established, by service and direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    own: Vec<(Cow<'static, str>, ByDirection)>,
    other: ByDirection,
}

impl Connections {
    /// The place of the port's service, if it has one or gets one now.
    fn place(&mut self, port: &PortInfo, is_often: bool) -> Option<u8> {
        let name = match port.service {
            Some((OTHER, _)) => return None,
            Some((name, _)) => Cow::Borrowed(name),
            None => Cow::Owned(port.port.to_string()),
        };
        let room = if is_often { FIRST + OFTEN } else { FIRST };
        // Several ports may be one service's.
        let known = self.own.iter().position(|(known, _)| *known == name);
        let place = match known {
            Some(place) => place,
            None if self.own.len() < room => {
                self.own.push((name, ByDirection::default()));
                self.own.len() - 1
            }
            None => return None,
        };
        u8::try_from(place).ok()
    }

    /// The services that have a label, and the others.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, ByDirection)> {
        let own = self.own.iter().map(|(name, count)| (&**name, *count));
        own.chain([(OTHER, self.other)])
    }
}

#[cfg(test)]
mod tests {
    use crate::consume::{lines::sample, metrics::services::*};

    fn counted(connections: impl IntoIterator<Item = (u16, Option<&'static str>)>) -> Connections {
        let mut labels = Labels::new();
        let mut counts = Connections::default();
        for (port, name) in connections {
            let port = sample::port(port, name, false);
            labels.count(&port, Direction::Outbound, &mut counts);
        }
        counts
    }

    fn of(counts: &Connections) -> Vec<(&str, u64)> {
        let all = counts.iter();
        all.map(|(name, count)| (name, count.outbound)).collect()
    }

    #[test]
    fn ports_of_one_service_are_counted_together_and_those_without_a_name_by_number() {
        let ports = [(80, Some("http")), (8080, Some("http")), (81, None)];
        let counts = counted(ports.into_iter().cycle().take(6));
        assert_eq!(of(&counts), [("http", 4), ("81", 2), (OTHER, 0)]);
    }

    #[test]
    fn a_scan_of_all_ports_leaves_room_for_what_comes_often() {
        let scan = (0..=u16::MAX).map(|port| (port, None));
        let often = iter::repeat_n((50_000, Some("often")), 1_000);
        let counts = counted(scan.chain(often));
        let all = of(&counts);
        assert_eq!(all.len(), FIRST + 2);
        assert_eq!(all[FIRST], ("often", 1_001 - u64::from(IS_OFTEN - 1)));
        let total: u64 = all.iter().map(|(_, count)| count).sum();
        assert_eq!(total, (1 << 16) + 1_000);
    }

    #[test]
    fn there_are_no_more_labels_than_there_is_room_for() {
        let all = (0..=u16::MAX).flat_map(|port| iter::repeat_n((port, None), 200));
        assert_eq!(of(&counted(all)).len(), FIRST + OFTEN + 1);
    }

    /// The label of the others would be there twice.
    #[test]
    fn a_service_that_is_called_as_the_others_are_is_counted_with_them() {
        assert_eq!(of(&counted([(7, Some(OTHER))])), [(OTHER, 1)]);
    }
}
