//! Texts and owners, each written once: what rows say by a number.

use std::{
    collections::HashMap,
    os::unix::ffi::OsStrExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{
    Connection, params,
    types::{ToSqlOutput, ValueRef},
};

use crate::events::{
    decode::Comm,
    record::{Process, Record},
    wire::words::{Reason, Spelled as _},
};

/// As many texts and owners are remembered.
const ROOM: usize = 16_384;
/// After so long, all of them are written anew, so that those of before can be forgotten when
/// the rows of that time are.
const EPOCH: Duration = Duration::from_hours(24);

/// The numbers that texts and owners have in the history.
#[derive(Debug, Default)]
pub(super) struct Names {
    run: i64,
    /// Since when they are from this epoch; `None` where there is none yet.
    since: Option<Instant>,
    texts: HashMap<Box<[u8]>, i64>,
    owners: HashMap<Key, Known>,
}

/// What tells an owner from another one: of the process itself, see [`Known`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    netns: u32,
    pid: u32,
    source: u8,
    start_ns: u64,
    name: Comm,
    uid: u32,
    gid: u32,
    cgroup_id: u64,
}

/// An owner that is in the history.
#[derive(Debug)]
struct Known {
    process: Arc<Process>,
    id: i64,
}

impl Names {
    /// None so far, of this run.
    pub(super) fn of_run(run: i64) -> Self {
        Self {
            run,
            ..Self::default()
        }
    }

    /// Forgets what may not be in the history.
    pub(super) fn forget(&mut self) {
        *self = Self::of_run(self.run);
    }

    /// Before any number is asked for: begins an epoch where it is time to.
    pub(super) fn begin(&mut self, db: &Connection, wall_ns: i64) -> rusqlite::Result<()> {
        let is_crowded = self.texts.len() > ROOM || self.owners.len() > ROOM;
        let is_old = self.since.is_none_or(|since| since.elapsed() > EPOCH);
        if !is_crowded && !is_old {
            return Ok(());
        }
        self.forget();
        db.prepare_cached(
            "INSERT INTO epochs (began_ns, first_text, first_owner) VALUES
            (?1, (SELECT coalesce(max(id), 0) + 1 FROM texts),
            (SELECT coalesce(max(id), 0) + 1 FROM owners))",
        )?
        .execute([wall_ns])?;
        self.since = Some(Instant::now());
        Ok(())
    }

    /// The number of a text.
    pub(super) fn text(&mut self, db: &Connection, text: &[u8]) -> rusqlite::Result<i64> {
        if let Some(id) = self.texts.get(text) {
            return Ok(*id);
        }
        let value = std::str::from_utf8(text).map_or(ValueRef::Blob(text), Into::into);
        db.prepare_cached("INSERT INTO texts (text) VALUES (?1)")?
            .execute([ToSqlOutput::Borrowed(value)])?;
        let id = db.last_insert_rowid();
        self.texts.insert(text.into(), id);
        Ok(id)
    }

    /// The number of the owner of what is told.
    pub(super) fn owner(&mut self, db: &Connection, record: &Record) -> rusqlite::Result<i64> {
        let owner = record.event.owner.as_ref();
        let key = Key {
            netns: record.event.netns_ino,
            pid: owner.map_or(0, |owner| owner.pid),
            source: owner.map_or(0, |owner| owner.source as u8),
            start_ns: owner.map_or(0, |owner| owner.start_ns),
            name: owner.map_or_else(Comm::default, |owner| owner.process_comm),
            uid: owner.map_or(0, |owner| owner.uid),
            gid: owner.map_or(0, |owner| owner.gid),
            cgroup_id: owner.map_or(0, |owner| owner.cgroup_id),
        };
        let process = &record.process;
        if let Some(known) = self.owners.get(&key)
            && (Arc::ptr_eq(&known.process, process) || known.process == *process)
        {
            return Ok(known.id);
        }
        let id = self.insert(db, &key, record)?;
        let process = Arc::clone(process);
        self.owners.insert(key, Known { process, id });
        Ok(id)
    }

    fn insert(&mut self, db: &Connection, key: &Key, record: &Record) -> rusqlite::Result<i64> {
        let process = &*record.process;
        let is_known = record.event.owner.is_some();
        let mut text = |text: Option<&[u8]>| text.map(|text| self.text(db, text)).transpose();
        let name = text(is_known.then(|| key.name.as_bytes()))?;
        let exe = process.exe.known().map(|path| path.as_os_str().as_bytes());
        let exe = text(exe)?;
        let user = text(process.user.as_deref().map(str::as_bytes))?;
        let cgroup = text(process.cgroup.as_deref().map(str::as_bytes))?;
        let unit = text(process.unit.as_deref().map(str::as_bytes))?;
        let container = process.container.as_ref();
        let id = text(container.map(|container| container.id.as_bytes()))?;
        let runtime = text(container.map(|container| container.runtime.as_bytes()))?;
        let pod = container.and_then(|container| container.pod_uid.as_deref());
        let pod = text(pod.map(str::as_bytes))?;
        let missing = process
            .exe
            .missing()
            .map(|reason| Reason::from(reason).word());
        let missing = text(missing.map(str::as_bytes))?;
        db.prepare_cached(
            "INSERT INTO owners (run, netns, pid, source, start_ns, uid, gid, cgroup_id, process,
            exe, user, cgroup, unit, container, runtime, pod, missing)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        )?
        .execute(params![
            self.run,
            key.netns,
            is_known.then_some(key.pid),
            is_known.then_some(key.source),
            is_known.then_some(key.start_ns.cast_signed()),
            is_known.then_some(key.uid),
            is_known.then_some(key.gid),
            is_known.then_some(key.cgroup_id.cast_signed()),
            name,
            exe,
            user,
            cgroup,
            unit,
            id,
            runtime,
            pod,
            missing,
        ])?;
        Ok(db.last_insert_rowid())
    }
}
