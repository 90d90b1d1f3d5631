//! Which connections are wanted, and how a database is asked for them.

use std::net::Ipv4Addr;

use port_monitor_common::{addr::as_v4, policy::Network};
use rusqlite::{Connection, ParamsFromIter, params_from_iter, types::Value};

use crate::{
    consume::history::rows::{INBOUND, wall_ns},
    events::decode::Direction,
    host::groups::Groups,
    ports::port_set::PortSet,
};

/// How far the connections have come that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The attempt failed.
    Failed,
    /// It goes on.
    NotYet,
}

/// A user who is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As it was written.
    pub name: String,
    /// The id that this host knows by that name.
    pub uid: Option<u32>,
}

/// Which connections are wanted. All that is here has to match; of a list, one.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Those that began then or later, ns since the Unix epoch.
    pub since_ns: Option<i128>,
    /// Those that began before that, ns since the Unix epoch.
    pub until_ns: Option<i128>,
    /// Only those that have come so far.
    pub ended: Option<Ended>,
    /// Only those that a policy denies.
    pub violations: bool,
    /// Process ids.
    pub pids: Vec<u32>,
    /// Users.
    pub users: Vec<User>,
    /// Names of processes, as the kernel has them.
    pub names: Vec<Vec<u8>>,
    /// cgroups and units.
    pub groups: Groups,
    /// Ports of this host's end.
    pub local_ports: Option<PortSet>,
    /// Ports of the other end.
    pub remote_ports: Option<PortSet>,
    /// Ports of either end.
    pub any_ports: Option<PortSet>,
    /// The service's ports: of the remote end outbound, of the local one inbound.
    pub service_ports: Option<PortSet>,
    /// Networks of the other end.
    pub networks: Vec<Network>,
    /// Whether addresses are of IPv6, or of IPv4.
    pub is_ipv6: Option<bool>,
    /// Who opened it.
    pub direction: Option<Direction>,
}

/// The port of the service, in the words of the index on it.
pub(super) const SERVICE_PORT: &str =
    "(CASE c.flags & 1 WHEN 0 THEN c.remote_port ELSE c.local_port END)";

/// A condition on connections `c`, and on their owners `o`.
#[derive(Debug)]
pub(super) struct Sql {
    conditions: Vec<String>,
    values: Vec<Value>,
    /// It asks for the owner.
    has_owner: bool,
}

impl Sql {
    /// The name of a parameter with this value.
    pub(super) fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
    }

    fn bind_all<V: Into<Value>>(&mut self, values: impl IntoIterator<Item = V>) -> String {
        let names: Vec<_> = values.into_iter().map(|value| self.bind(value)).collect();
        names.join(", ")
    }

    /// The tables it is about.
    pub(super) const fn from(&self) -> &'static str {
        if self.has_owner {
            "connection_rows c JOIN owners o ON o.id = c.owner"
        } else {
            "connection_rows c"
        }
    }

    /// The condition.
    pub(super) fn condition(&self) -> String {
        if self.conditions.is_empty() {
            return "1".to_owned();
        }
        self.conditions.join(" AND ")
    }

    /// The values of its parameters.
    pub(super) fn values(&self) -> ParamsFromIter<&[Value]> {
        params_from_iter(&self.values[..])
    }

    fn add(&mut self, condition: impl Into<String>) {
        self.conditions.push(condition.into());
    }

    /// One of these has to be true; none does where there is none.
    fn any(&mut self, conditions: &[String]) {
        self.add(format!("({})", conditions.join(" OR ")));
    }

    fn of_owner(&mut self, condition: impl Into<String>) {
        self.has_owner = true;
        self.add(condition);
    }

    /// One of these columns is in the set.
    fn ports(&mut self, columns: &[&str], ports: Option<&PortSet>) {
        let Some(ports) = ports else {
            return;
        };
        let within: Vec<_> = ports
            .ranges()
            .flat_map(|range| columns.iter().map(move |column| (column, range.clone())))
            .map(|(column, range)| match (range.start(), range.end()) {
                (first, last) if first == last => format!("{column} = {first}"),
                (first, last) => format!("{column} BETWEEN {first} AND {last}"),
            })
            .collect();
        self.any(&within);
    }

    fn networks(&mut self, networks: &[Network]) {
        if networks.is_empty() {
            return;
        }
        let within: Vec<_> = networks
            .iter()
            .map(|network| {
                let (first, last) = (network.first(), network.last());
                let v4 = network.is_v4().then(|| as_v4(&first).zip(as_v4(&last)));
                let (length, first, last) = match v4.flatten() {
                    Some((first, last)) => (first.len(), first.to_vec(), last.to_vec()),
                    None => (first.len(), first.to_vec(), last.to_vec()),
                };
                let (first, last) = (self.bind(first), self.bind(last));
                // Blobs are compared by their beginnings: those of the other family are not
                // meant.
                format!(
                    "(length(c.remote_ip) = {length} AND c.remote_ip BETWEEN {first} AND {last})"
                )
            })
            .collect();
        self.any(&within);
    }
}

impl Wanted {
    /// How `db` is asked for them.
    pub(super) fn sql(&self, db: &Connection) -> rusqlite::Result<Sql> {
        let mut sql = Sql {
            conditions: Vec::new(),
            values: Vec::new(),
            has_owner: false,
        };
        if let Some(since_ns) = self.since_ns {
            let since = sql.bind(wall_ns(since_ns));
            sql.add(format!("c.id >= {since}"));
        }
        if let Some(until_ns) = self.until_ns {
            let until = sql.bind(wall_ns(until_ns));
            sql.add(format!("c.id < {until}"));
        }
        match self.ended {
            Some(Ended::Failed) => sql.add("c.state = 2"),
            Some(Ended::NotYet) => sql.add("c.state < 2"),
            None => {}
        }
        if self.violations {
            sql.add("c.verdict > 0");
        }
        self.add_ends(&mut sql);
        self.add_owner(&mut sql, db)?;
        Ok(sql)
    }

    fn add_ends(&self, sql: &mut Sql) {
        sql.ports(&["c.local_port"], self.local_ports.as_ref());
        sql.ports(&["c.remote_port"], self.remote_ports.as_ref());
        let both = ["c.local_port", "c.remote_port"];
        sql.ports(&both, self.any_ports.as_ref());
        sql.ports(&[SERVICE_PORT], self.service_ports.as_ref());
        sql.networks(&self.networks);
        if let Some(is_ipv6) = self.is_ipv6 {
            let v4_length = Ipv4Addr::UNSPECIFIED.octets().len();
            let comparison = if is_ipv6 { ">" } else { "=" };
            sql.add(format!("length(c.local_ip) {comparison} {v4_length}"));
        }
        if let Some(direction) = self.direction {
            let inbound = match direction {
                Direction::Inbound => INBOUND,
                Direction::Outbound => 0,
            };
            sql.add(format!("c.flags & {INBOUND} = {inbound}"));
        }
    }

    fn add_owner(&self, sql: &mut Sql, db: &Connection) -> rusqlite::Result<()> {
        if !self.pids.is_empty() {
            let pids = sql.bind_all(self.pids.iter().copied());
            sql.of_owner(format!("o.pid IN ({pids})"));
        }
        if !self.names.is_empty() {
            let names = self.names.iter();
            let names = names.map(|name| match str::from_utf8(name) {
                Ok(text) => Value::from(text.to_owned()),
                Err(_) => Value::from(name.clone()),
            });
            let names = sql.bind_all(names);
            sql.of_owner(format!(
                "o.process IN (SELECT id FROM texts WHERE text IN ({names}))"
            ));
        }
        if !self.users.is_empty() {
            let uids = sql.bind_all(self.users.iter().filter_map(|user| user.uid));
            let names = sql.bind_all(self.users.iter().map(|user| user.name.clone()));
            sql.of_owner(format!(
                "(o.uid IN ({uids}) OR o.user IN (SELECT id FROM texts WHERE text IN ({names})))"
            ));
        }
        if !self.groups.is_empty() {
            let ids = covered(db, &self.groups)?;
            let ids = sql.bind(ids);
            sql.of_owner(format!("o.cgroup IN (SELECT value FROM json_each({ids}))"));
        }
        Ok(())
    }
}

/// The numbers of the cgroups that are meant, as a JSON array.
fn covered(db: &Connection, groups: &Groups) -> rusqlite::Result<String> {
    let paths = "SELECT id, text FROM texts WHERE typeof(text) = 'text' AND text LIKE '/%'";
    let mut statement = db.prepare(paths)?;
    let mut rows = statement.query([])?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        if groups.cover(row.get_ref(1)?.as_str()?) {
            ids.push(id.to_string());
        }
    }
    Ok(format!("[{}]", ids.join(",")))
}
