//! The part of a line that is the same for all events of a process, rendered
//! once per process.

use std::sync::Arc;

use port_monitor_common::event::FileId;

use super::{line::Line, missing, raw};
use crate::{
    base::{memo::Memo, time::Rfc3339},
    events::{
        decode::Comm,
        record::{Container, Process, Record},
    },
};

/// The texts of the processes last seen.
#[derive(Debug)]
pub(crate) struct Owners {
    /// A busy host has fewer processes that connect.
    texts: Memo<OwnerText, 512>,
    /// `,"host":{…}`, which stands among what belongs to the process.
    host: Vec<u8>,
}

/// What is the same for all events of a process.
#[derive(Debug)]
pub(crate) struct OwnerText {
    /// With `owner` all that the text depends on. Held on to, so that its address
    /// stays its own.
    process: Arc<Process>,
    owner: Option<OwnerFacts>,
    /// `process` up to its thread's id; empty without an owner.
    before_thread: Vec<u8>,
    /// From the thread's name on: the rest of `process`, then `user` to `host`.
    after_name: Vec<u8>,
    /// Id and name of the thread last seen.
    thread: Option<(u32, Comm, Comm)>,
    /// From `process` to `host`, with that thread.
    whole: Vec<u8>,
    /// `port_monitor`, from the process's start to the unit.
    pub(crate) facts: Vec<u8>,
    /// `missing` of an event whose ports are chosen; empty where nothing is missing.
    pub(crate) missing: Vec<u8>,
    /// The fields of `raw` that are the process's, with that thread; mostly empty.
    pub(crate) raw: Vec<u8>,
}

/// The facts of an owner that its threads share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OwnerFacts {
    pid: u32,
    start_ns: u64,
    /// Changes a little whenever the clock is sampled, and the text with it.
    start_wall_ns: i128,
    uid: u32,
    gid: u32,
    cgroup_id: u64,
    exe: Option<FileId>,
    is_kernel: bool,
}

impl OwnerFacts {
    fn of(record: &Record) -> Option<Self> {
        let owner = record.event.owner.as_ref()?;
        let age_ns = i128::from(record.event.ts_ns) - i128::from(owner.start_ns);
        Some(Self {
            pid: owner.pid,
            start_ns: owner.start_ns,
            start_wall_ns: record.wall_ns - age_ns,
            uid: owner.uid,
            gid: owner.gid,
            cgroup_id: owner.cgroup_id,
            exe: owner.exe,
            is_kernel: owner.is_kernel,
        })
    }
}

impl Owners {
    /// Nothing seen yet, on a host of this name.
    pub(crate) fn new(host: &str) -> Self {
        let mut text = Vec::new();
        let mut line = Line(&mut text);
        line.raw(r#","host":{"name":"#);
        line.string(host);
        line.raw("}");
        Self {
            texts: Memo::new(),
            host: text,
        }
    }

    /// The text of the process of `record`.
    pub(crate) fn text(&mut self, record: &Record) -> &mut OwnerText {
        let process = &record.process;
        let owner = OwnerFacts::of(record);
        // No two processes share a cache line.
        let hash = Arc::as_ptr(process).addr() / 64;
        self.texts.get(
            hash,
            |text| Arc::ptr_eq(&text.process, process) && text.owner == owner,
            || OwnerText::new(process, owner, &self.host),
        )
    }
}

impl OwnerText {
    /// From `process` to `host`, with the thread of the event's owner.
    pub(crate) fn with_thread(&mut self, record: &Record) -> &[u8] {
        let owner = record.event.owner.as_ref();
        let thread = owner.map(|owner| (owner.tid, owner.comm, owner.process_comm));
        // The process and this are all that it depends on.
        if self.thread != thread || self.whole.is_empty() {
            self.thread = thread;
            self.raw = raw_fields(&self.process, thread.as_ref());
            self.whole.clear();
            let mut line = Line(&mut self.whole);
            line.rendered(&self.before_thread);
            if let Some((tid, comm, process_comm)) = &thread {
                line.number(*tid);
                line.raw(r#","name":"#);
                line.string(comm.as_bytes());
                line.raw(r#"},"name":"#);
                line.string(process_comm.as_bytes());
            }
            line.rendered(&self.after_name);
        }
        &self.whole
    }

    fn new(process: &Arc<Process>, owner: Option<OwnerFacts>, host: &[u8]) -> Self {
        let mut text = Self {
            process: Arc::clone(process),
            owner,
            before_thread: Vec::new(),
            after_name: Vec::new(),
            thread: None,
            whole: Vec::new(),
            facts: Vec::new(),
            missing: Vec::new(),
            raw: Vec::new(),
        };
        let exe = process.exe.known();
        let exe = exe.map(|exe| exe.as_os_str().as_encoded_bytes());
        if let Some(owner) = &owner {
            let mut line = Line(&mut text.before_thread);
            line.raw(r#","process":{"pid":"#);
            line.number(owner.pid);
            line.raw(r#","thread":{"id":"#);
            let mut line = Line(&mut text.after_name);
            push_process(&mut line, exe, process, owner);
            push_user(&mut line, process.user.as_deref(), owner);
            let mut line = Line(&mut text.facts);
            push_cgroup(&mut line, process.cgroup.as_deref(), owner);
            push_exe(&mut line, owner);
        }
        let mut line = Line(&mut text.after_name);
        if let Some(container) = &process.container {
            push_container(&mut line, container);
        }
        line.rendered(host);
        if let Some(unit) = &process.unit {
            let mut line = Line(&mut text.facts);
            line.raw(r#","unit":"#);
            line.string(&**unit);
        }
        let mut line = Line(&mut text.missing);
        missing::push(&mut line, process, owner.is_some(), None);
        text
    }
}

/// The fields of `raw` of this process and its thread, whose id comes before its name and
/// that of the process.
fn raw_fields(process: &Process, thread: Option<&(u32, Comm, Comm)>) -> Vec<u8> {
    let mut fields = Vec::new();
    if let Some((_, comm, process_comm)) = thread {
        let parent = process.parent.and_then(|parent| parent.named);
        let names = [
            (r#""process.thread.name":"#, Some(*comm)),
            (r#""process.name":"#, Some(*process_comm)),
            (r#""process.parent.name":"#, parent.map(|(comm, _)| comm)),
        ];
        for (field, comm) in names {
            let comm = comm.unwrap_or_default();
            raw::push_field(&mut fields, field, comm.as_bytes());
        }
    }
    if let Some(exe) = process.exe.known() {
        let exe = exe.as_os_str().as_encoded_bytes();
        raw::push_field(&mut fields, r#""process.executable":"#, exe);
    }
    fields
}

fn push_process(line: &mut Line<'_>, exe: Option<&[u8]>, process: &Process, owner: &OwnerFacts) {
    if let Some(exe) = exe {
        line.raw(r#","executable":"#);
        line.string(exe);
    }
    if let Some(args) = &process.args {
        let mut separator = r#","args":["#;
        for arg in &**args {
            line.raw(separator);
            line.string(arg);
            separator = ",";
        }
        line.raw("]");
    }
    if let Some(parent) = &process.parent {
        line.raw(r#","parent":{"pid":"#);
        line.number(parent.pid);
        if let Some((comm, start_ns)) = &parent.named {
            line.raw(r#","name":"#);
            line.string(comm.as_bytes());
            let age_ns = i128::from(owner.start_ns) - i128::from(*start_ns);
            line.raw(r#","start":""#);
            line.display(&Rfc3339(owner.start_wall_ns - age_ns));
            line.raw("\"");
        }
        line.raw("}");
    }
    line.raw(r#","start":""#);
    line.display(&Rfc3339(owner.start_wall_ns));
    line.raw(r#""}"#);
}

fn push_user(line: &mut Line<'_>, name: Option<&str>, owner: &OwnerFacts) {
    line.raw(r#","user":{"id":""#);
    line.number(owner.uid);
    line.raw("\"");
    if let Some(name) = name {
        line.raw(r#","name":"#);
        line.string(name);
    }
    line.raw(r#"},"group":{"id":""#);
    line.number(owner.gid);
    line.raw(r#""}"#);
}

fn push_container(line: &mut Line<'_>, container: &Container) {
    let Container {
        id,
        runtime,
        pod_uid,
    } = container;
    line.raw(r#","container":{"id":"#);
    line.string(id);
    line.raw(r#","runtime":"#);
    line.string(runtime);
    line.raw("}");
    if let Some(pod_uid) = pod_uid {
        line.raw(r#","orchestrator":{"type":"kubernetes","resource":{"type":"pod","id":"#);
        line.string(pod_uid);
        line.raw("}}");
    }
}

/// The executable, and that it is none because the kernel itself acts.
fn push_exe(line: &mut Line<'_>, owner: &OwnerFacts) {
    if let Some(exe) = owner.exe {
        line.raw(r#","exe":{"device":""#);
        line.number(exe.device >> 20);
        line.raw(":");
        line.number(exe.device & 0xf_ffff);
        line.raw(r#"","inode":""#);
        line.number(exe.inode);
        line.raw(r#""}"#);
    }
    if owner.is_kernel {
        line.raw(r#","kernel":true"#);
    }
}

fn push_cgroup(line: &mut Line<'_>, path: Option<&str>, owner: &OwnerFacts) {
    line.raw(r#","process_start_boottime_ns":""#);
    line.number(owner.start_ns);
    line.raw(r#"","cgroup":{"id":""#);
    line.number(owner.cgroup_id);
    line.raw("\"");
    if let Some(path) = path {
        line.raw(r#","path":"#);
        line.string(path);
    }
    line.raw("}");
}
