//! The compiled rules in the form that decides: for each value that rules tell
//! apart, the mask of those that accept it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use port_monitor_common::{
    mask::{Accepting, Mask},
    policy::{Accepts, Direction, Facts, Network, OwnerCondition, Peer, Rule, Rules, Transport},
};

use super::stretches;

/// The masks of one policy.
#[derive(Debug)]
pub(crate) struct Index {
    /// Each once, the empty one first; the others point here.
    pub(crate) masks: Vec<Mask>,
    pub(crate) directions: [u32; 3],
    /// The mask of each port.
    ports: Vec<u32>,
    /// The masks of ports in the form of the kernel's tables, once somebody has asked: whoever
    /// follows a policy does so every second.
    port_words: OnceLock<Arc<[u64]>>,
    pub(crate) networks: Networks,
    /// The masks of networks in the form of the kernel's tables, once somebody has asked.
    network_pages: OnceLock<Arc<stretches::Networks>>,
    /// Rules that accept peers on this host by name.
    pub(crate) this_host: Mask,
    pub(crate) users: HashMap<u32, u32>,
    /// The mask of users no rule names, and of unknown ones.
    pub(crate) other_user: u32,
    /// By condition; users are above.
    scoped: [Scoped; OwnerCondition::COUNT],
    /// When rules end, earliest first.
    pub(crate) ends: Vec<(i64, usize)>,
}

/// Masks by network: that of the longest prefix of an address holds the rules of
/// every shorter one too.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    /// By length, then by first address.
    pub(crate) prefixes: BTreeMap<u32, HashMap<u128, u32>>,
    /// The mask of addresses in no network.
    pub(crate) other: u32,
}

/// Masks by what an owner belongs to several of.
#[derive(Debug)]
struct Scoped {
    /// Rules that do not ask.
    any: Mask,
    by_scope: HashMap<u32, Mask>,
}

impl Index {
    pub(crate) fn of(rules: &Rules<'_>) -> Self {
        let mut table = Table::default();
        table.number(Mask::NONE);
        let directions = Direction::ALL
            .map(|direction| table.number(collect(rules, |rule| rule.direction == direction)));
        let user = |rule: &Rule| rule.owner(OwnerCondition::User);
        let users = by_value(rules.rules, rules.owners, user);
        let no_user = collect(rules, |rule| user(rule) == Accepts::Any);
        let mut ends: Vec<_> = (0..)
            .zip(rules.rules)
            .filter(|(_, rule)| rule.until_ns != i64::MAX)
            .map(|(index, rule)| (rule.until_ns, index))
            .collect();
        ends.sort_unstable();
        let scoped = |condition| Scoped {
            any: collect(rules, |rule| !rule.asks([condition])),
            by_scope: by_value(rules.rules, rules.owners, |rule| rule.owner(condition)),
        };
        Self {
            directions,
            ports: ports(rules, &mut table),
            port_words: OnceLock::new(),
            networks: Networks::of(rules, &mut table),
            network_pages: OnceLock::new(),
            this_host: collect(rules, |rule| {
                let peers = rule.peers.of(rules.peers);
                peers.is_some_and(|peers| peers.contains(&Peer::ThisHost))
            }),
            users: users
                .into_iter()
                .map(|(uid, mut mask)| {
                    mask.unite(&no_user);
                    (uid, table.number(mask))
                })
                .collect(),
            other_user: table.number(no_user),
            scoped: OwnerCondition::ALL.map(scoped),
            ends,
            masks: table.masks,
        }
    }

    /// The mask of every port, four in a word. A number of more than 16 bits is cut: there
    /// is no room for so many masks in the kernel, whoever asks sees to that.
    pub(crate) fn port_words(&self) -> Arc<[u64]> {
        let words = self.port_words.get_or_init(|| {
            let words = self.ports.chunks(4).map(|numbers| {
                let places = (0..).zip(numbers);
                places.fold(0, |word, (place, number)| {
                    word | (u64::from(*number) & 0xffff) << (16 * place)
                })
            });
            words.collect()
        });
        Arc::clone(words)
    }

    /// The masks of networks in the kernel's form.
    pub(crate) fn network_pages(&self) -> Arc<stretches::Networks> {
        let pages = self.network_pages.get_or_init(|| {
            let prefixes = self.networks.prefixes.iter();
            let prefixes = prefixes.flat_map(|(&prefix_len, masks)| {
                masks.iter().map(move |(&first, &mask)| stretches::Prefix {
                    first,
                    prefix_len,
                    mask,
                })
            });
            Arc::new(stretches::Networks::of(
                prefixes.collect(),
                self.networks.other,
            ))
        });
        Arc::clone(pages)
    }

    /// The index of the first rule that matches.
    pub(crate) fn first(&self, facts: &Facts<'_>) -> Option<usize> {
        let mut direction = *self.mask(self.directions[facts.direction as usize]);
        let ended = self.ends.iter().take_while(|(end, _)| *end <= facts.now_ns);
        for &(_, rule) in ended {
            direction.remove(rule);
        }
        let port = self.ports.get(facts.service_port as usize);
        let user = facts.uid.and_then(|uid| self.users.get(&uid));
        let group = self.group(facts.scopes);
        let accepting = Accepting {
            direction: &direction,
            port: self.mask(port.copied().unwrap_or_default()),
            network: self.mask(self.networks.find(&facts.peer)),
            this_host: if facts.peer_is_self {
                &self.this_host
            } else {
                &Mask::NONE
            },
            user: self.mask(user.copied().unwrap_or(self.other_user)),
            group: &group,
            exe: &self.singles(facts.scopes),
        };
        accepting.first()
    }

    /// The mask of whatever is in these units and cgroups.
    pub(crate) fn group(&self, scopes: &[u32]) -> Mask {
        let mut mask = self.scoped(OwnerCondition::Unit, scopes);
        mask.intersect(&self.scoped(OwnerCondition::Cgroup, scopes));
        mask
    }

    /// The mask of whatever is in these of what an owner is in one of at most.
    fn singles(&self, scopes: &[u32]) -> Mask {
        let masks = OwnerCondition::singles().map(|condition| self.scoped(condition, scopes));
        let both = |mut mask: Mask, other| {
            mask.intersect(&other);
            mask
        };
        masks.reduce(both).unwrap_or(Mask::NONE)
    }

    /// The mask of whatever is in these, by one condition.
    pub(crate) fn scoped(&self, condition: OwnerCondition, scopes: &[u32]) -> Mask {
        self.scoped[condition as usize].of(scopes)
    }

    fn mask(&self, number: u32) -> &Mask {
        self.masks.get(number as usize).unwrap_or(&Mask::NONE)
    }
}

impl Scoped {
    fn of(&self, scopes: &[u32]) -> Mask {
        let mut mask = self.any;
        for scope in scopes.iter().filter_map(|scope| self.by_scope.get(scope)) {
            mask.unite(scope);
        }
        mask
    }
}

impl Networks {
    fn of(rules: &Rules<'_>, table: &mut Table) -> Self {
        let any = collect(rules, |rule| rule.peers == Accepts::Any);
        let mut networks = Self {
            prefixes: BTreeMap::new(),
            other: table.number(any),
        };
        // The networks around the next one, outermost first: last address and mask.
        let mut around: Vec<(u128, u32)> = Vec::new();
        let (named, lists) = named_networks(rules);
        for same in named.chunk_by(|a, b| a.0 == b.0) {
            let Some((network, _)) = same.first() else {
                continue;
            };
            let (prefix_len, first) = key(network);
            while around.last().is_some_and(|&(last, _)| last < first) {
                around.pop();
            }
            let outer = around.last().map_or(networks.other, |&(_, mask)| mask);
            // The networks of IPv6 hold no IPv4 address, though their prefixes do.
            let outer = if *network == Network::ALL_V4 {
                networks.other
            } else {
                outer
            };
            let mut mask = *table.get(outer);
            for list in same.iter().filter_map(|&(_, list)| lists.get(list)) {
                mask.unite(list);
            }
            let number = table.number(mask);
            around.push((u128::from_be_bytes(network.last()), number));
            let of_this_length = networks.prefixes.entry(prefix_len).or_default();
            of_this_length.insert(first, number);
        }
        networks
    }

    /// The mask of the longest prefix of `addr`.
    fn find(&self, addr: &[u8; 16]) -> u32 {
        let addr = u128::from_be_bytes(*addr);
        let found = self.prefixes.iter().rev().find_map(|(prefix_len, masks)| {
            let host_bits = u128::MAX.checked_shr(*prefix_len).unwrap_or(0);
            masks.get(&(addr & !host_bits))
        });
        found.copied().unwrap_or(self.other)
    }
}

/// The networks that rules name, and all of IPv4, each after those around it and with
/// the number of its list; and the rules of each list, which several may share.
fn named_networks(rules: &Rules<'_>) -> (Vec<(Network, usize)>, Vec<Mask>) {
    let mut lists = vec![Mask::NONE];
    let mut named = vec![(Network::ALL_V4, 0)];
    let mut numbers = HashMap::new();
    for (index, rule) in rules.rules.iter().enumerate() {
        let Accepts::OneOf { start, len } = rule.peers else {
            continue;
        };
        let number = *numbers.entry((start, len)).or_insert(lists.len());
        if number == lists.len() {
            lists.push(Mask::NONE);
            let peers = rule.peers.of(rules.peers).unwrap_or_default();
            named.extend(peers.iter().filter_map(|peer| match peer {
                Peer::Network(network) => Some((*network, number)),
                Peer::ThisHost => None,
            }));
        }
        lists[number].insert(index);
    }
    named.sort_unstable_by_key(|(network, _)| {
        let (prefix_len, first) = key(network);
        (first, prefix_len)
    });
    (named, lists)
}

fn key(network: &Network) -> (u32, u128) {
    (network.prefix_len(), u128::from_be_bytes(network.first()))
}

/// The mask of every port: what changes from one to the next are the rules whose
/// ranges begin or end there.
fn ports(rules: &Rules<'_>, table: &mut Table) -> Vec<u32> {
    let mut changes: BTreeMap<u32, Vec<(usize, i32)>> = BTreeMap::new();
    for (index, rule) in rules.rules.iter().enumerate() {
        for range in rule.ports.of(rules.ports).unwrap_or_default() {
            let (begin, end) = (range.first, range.last + 1);
            changes.entry(begin).or_default().push((index, 1));
            changes.entry(end).or_default().push((index, -1));
        }
    }
    let mut mask = collect(rules, |rule| rule.ports == Accepts::Any);
    let mut open = vec![0_i32; rules.rules.len()];
    let mut number = table.number(mask);
    let mut numbers = Vec::new();
    for port in 0..=Transport::Udp.ports().last {
        if let Some(changes) = changes.get(&port) {
            for &(rule, change) in changes {
                // A rule's ranges may overlap.
                open[rule] += change;
                if open[rule] > 0 {
                    mask.insert(rule);
                } else {
                    mask.remove(rule);
                }
            }
            number = table.number(mask);
        }
        numbers.push(number);
    }
    numbers
}

/// Masks, each once.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) masks: Vec<Mask>,
    numbers: HashMap<Mask, u32>,
}

impl Table {
    /// One that has these already.
    pub(crate) fn of(masks: &[Mask]) -> Self {
        let mut table = Self::default();
        for mask in masks {
            table.number(*mask);
        }
        table
    }

    pub(crate) fn number(&mut self, mask: Mask) -> u32 {
        *self.numbers.entry(mask).or_insert_with(|| {
            self.masks.push(mask);
            // Far fewer than 2^32: one for each port and network at most.
            u32::try_from(self.masks.len() - 1).unwrap_or(u32::MAX)
        })
    }

    pub(crate) fn get(&self, number: u32) -> &Mask {
        self.masks.get(number as usize).unwrap_or(&Mask::NONE)
    }
}

fn collect(rules: &Rules<'_>, is_in: impl Fn(&Rule) -> bool) -> Mask {
    let mut mask = Mask::NONE;
    for (index, rule) in rules.rules.iter().enumerate() {
        if is_in(rule) {
            mask.insert(index);
        }
    }
    mask
}

/// The rules that name each value.
fn by_value(rules: &[Rule], all: &[u32], accepts: impl Fn(&Rule) -> Accepts) -> HashMap<u32, Mask> {
    let mut masks = HashMap::new();
    for (index, rule) in rules.iter().enumerate() {
        for &value in accepts(rule).of(all).unwrap_or_default() {
            masks.entry(value).or_insert(Mask::NONE).insert(index);
        }
    }
    masks
}
