//! Loads and pins the programs, all of them or none, and attaches those that a policy
//! asks: the others would only cost.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, CgroupSockAddrAttachType,
        Program, ProgramError, SkLookup, links::FdLink,
    },
};
use port_monitor_common::{
    config::Config,
    generation::{
        ASKS_LISTEN, ASKS_UDP, GENERATION_ABI, GENERATIONS, Header, INBOUND_OPEN, STYLE_RESET,
        TALLIES,
    },
};

use super::{
    Attempt, EnforcerError, Instance,
    links::attached_to,
    removal::{self, Left},
    tables::DENIALS,
};
use crate::{
    host::cgroup::CgroupTree,
    kernel::{
        self,
        error::{KernelError, chain},
        host_btf::Types,
        object,
    },
};

/// The network namespaces whose closed ports may answer with RST: process 1's, which no
/// `ip netns exec` takes with it, or where that is out of reach, our own.
const NETNS: [&str; 2] = ["/proc/1/ns/net", "/proc/self/ns/net"];

/// How a program is attached to a cgroup.
#[derive(Clone, Copy, Debug)]
enum Hook {
    Address(CgroupSockAddrAttachType),
    Ingress,
}

/// What is attached to the cgroup.
const CGROUP_PROGRAMS: [(&str, Hook); 8] = [
    (CONNECT, Hook::Address(CgroupSockAddrAttachType::Connect4)),
    (
        "pm_connect6",
        Hook::Address(CgroupSockAddrAttachType::Connect6),
    ),
    (
        "pm_sendmsg4",
        Hook::Address(CgroupSockAddrAttachType::UDPSendMsg4),
    ),
    (
        "pm_sendmsg6",
        Hook::Address(CgroupSockAddrAttachType::UDPSendMsg6),
    ),
    ("pm_bind4", Hook::Address(CgroupSockAddrAttachType::Bind4)),
    ("pm_bind6", Hook::Address(CgroupSockAddrAttachType::Bind6)),
    ("pm_ingress", Hook::Ingress),
    ("pm_unlisted", Hook::Ingress),
];
/// Every policy asks it.
const CONNECT: &str = "pm_connect4";
/// Of the whole host's.
const LOOKUP: &str = "pm_lookup";

/// Of all programs.
fn names() -> impl Iterator<Item = &'static str> {
    let of_cgroup = CGROUP_PROGRAMS.into_iter().map(|(name, _)| name);
    of_cgroup.chain([LOOKUP])
}

/// A policy asks this program. It may be attached all the same, for another's sake: then it
/// finds that it is not asked.
fn is_asked(program: &str, header: &Header) -> bool {
    let asks = |bit| header.asks & bit != 0;
    match program {
        "pm_sendmsg4" | "pm_sendmsg6" => asks(ASKS_UDP),
        "pm_ingress" => !asks(INBOUND_OPEN),
        "pm_unlisted" => asks(ASKS_LISTEN),
        LOOKUP => !asks(INBOUND_OPEN) && header.style == STYLE_RESET,
        _ => true,
    }
}

/// Loads everything, pins it in `dir`, and attaches what one of `headers` asks.
///
/// In the directory of the attempt until all is there: what a crash leaves is not taken for
/// an installation, and goes with the next. `panic-open` takes that directory away, and
/// then nothing more can be pinned in it.
pub(super) fn install(
    dir: &Path,
    attempt: &Attempt,
    cgroup: Option<&Path>,
    headers: &[Header],
) -> Result<(), EnforcerError> {
    let unfinished = attempt.place()?;
    attempt.clear_others();
    let cgroup = open_cgroup(cgroup)?;
    let mut ebpf = load()?;
    let pinned = pin_all(&mut ebpf, unfinished, &cgroup)
        .and_then(|()| attach_all(unfinished, &cgroup, headers))
        .and_then(|()| fs::rename(unfinished, dir).map_err(|error| file_error(dir, error)));
    match pinned {
        Err(_) if !unfinished.exists() => Err(EnforcerError::Ended),
        pinned => pinned,
    }
}

/// Attaches what one of `headers` asks and nothing asked before.
pub(super) fn attach(
    dir: &Path,
    cgroup: Option<&Path>,
    headers: &[Header],
) -> Result<(), EnforcerError> {
    attach_all(dir, &open_cgroup(cgroup)?, headers)
}

/// Detaches and unpins everything in `dir`, or says what is left.
pub(super) fn remove(dir: &Path) -> Result<(), EnforcerError> {
    let mut left = Left::default();
    removal::remove_dir(dir, &mut left);
    let left = left.links.into_iter().chain(left.others).next();
    left.map_or(Ok(()), |(path, error)| Err(file_error(&path, error)))
}

/// The links in `dir`, and whether each attaches something.
pub(super) fn links(dir: &Path) -> Result<Vec<(String, bool)>, EnforcerError> {
    let present = names().filter(|name| dir.join(link_name(name)).exists());
    present
        .map(|name| {
            let place = attached_to(&dir.join(link_name(name)))?;
            Ok((name.to_owned(), place.is_some()))
        })
        .collect()
}

/// Refuses an instance that holds another cgroup than the one that is meant.
pub(super) fn check_cgroup(dir: &Path, instance: &Instance) -> Result<(), EnforcerError> {
    let held = attached_to(&dir.join(link_name(CONNECT)))?;
    let meant = open_cgroup(instance.cgroup.as_deref())?.id;
    // One that is detached is told by `status`.
    if held.is_none_or(|held| held == meant) {
        return Ok(());
    }
    Err(EnforcerError::OtherCgroup {
        name: instance.name.clone(),
    })
}

/// Refuses what another version has pinned.
pub(super) fn check_version(dir: &Path) -> Result<(), EnforcerError> {
    if dir.join(version_name()).exists() {
        return Ok(());
    }
    Err(EnforcerError::OtherVersion {
        path: dir.to_owned(),
    })
}

/// What the names of links begin with.
pub(super) const LINK: &str = "link_";

/// The name under which the first map is pinned a second time. A bpf file system
/// holds no text.
fn version_name() -> String {
    format!("version_{GENERATION_ABI}")
}

fn link_name(program: &str) -> String {
    format!("{LINK}{program}")
}

fn program_name(program: &str) -> String {
    format!("program_{program}")
}

pub(super) fn file_error(path: &Path, error: io::Error) -> EnforcerError {
    EnforcerError::File {
        path: path.to_owned(),
        error,
    }
}

/// A cgroup to attach to.
struct Cgroup {
    id: u64,
    file: File,
    path: PathBuf,
    is_root: bool,
}

fn open_cgroup(wanted: Option<&Path>) -> Result<Cgroup, EnforcerError> {
    let tree = CgroupTree::find(Path::new("/proc")).ok_or(EnforcerError::NoCgroups)?;
    let below = wanted.unwrap_or(Path::new("/"));
    let path = tree.mount().join(below.strip_prefix("/").unwrap_or(below));
    Ok(Cgroup {
        id: tree.id(below).map_err(|error| file_error(&path, error))?,
        file: File::open(&path).map_err(|error| file_error(&path, error))?,
        path,
        is_root: wanted.is_none(),
    })
}

fn load() -> Result<Ebpf, EnforcerError> {
    let types = Types::read(Path::new(kernel::error::SYSTEM_BTF))?;
    let hits = kernel::counters::of_each_cpu(GENERATIONS * TALLIES)?;
    let sizes = object::Sizes::enforcer(hits);
    let programs: Vec<_> = names().collect();
    let ebpf = object::load(&types.offsets, &Config::default(), &sizes, 0, &programs);
    Ok(ebpf.map_err(KernelError::from)?)
}

/// Maps first, so that whoever finds a link finds what it asks.
fn pin_all(ebpf: &mut Ebpf, dir: &Path, cgroup: &Cgroup) -> Result<(), EnforcerError> {
    for name in object::POLICY_MAPS.into_iter().chain(["pm_state", DENIALS]) {
        let map = kernel::maps::map(ebpf, name).map_err(KernelError::from)?;
        map.pin(dir.join(name))
            .map_err(|error| KernelError::Map(chain(&error)))?;
    }
    let state = kernel::maps::map(ebpf, "pm_state").map_err(KernelError::from)?;
    state
        .pin(dir.join(version_name()))
        .map_err(|error| KernelError::Map(chain(&error)))?;
    for name in names().filter(|name| cgroup.is_root || *name != LOOKUP) {
        load_program(ebpf, name)
            .map_err(|error| refused(name, &cgroup.path, &error))?
            .pin(dir.join(program_name(name)))
            .map_err(|error| KernelError::Map(chain(&error)))?;
    }
    Ok(())
}

fn pin(link: FdLink, path: &Path) -> Result<(), EnforcerError> {
    link.pin(path)
        .map(drop)
        .map_err(|error| KernelError::Map(chain(&error)).into())
}

fn refused(program: &'static str, place: &Path, error: &ProgramError) -> EnforcerError {
    EnforcerError::Attach {
        program,
        place: place.display().to_string(),
        reason: chain(error),
    }
}

/// Loads a program, so that it can be pinned and attached later.
fn load_program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Program, ProgramError> {
    // The object is our own: a program that is not in it was not loaded.
    let program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
    match program {
        Program::CgroupSkb(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        Program::SkLookup(program) => program.load()?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    Ok(program)
}

/// Attaches what is pinned in `dir`, if one of `headers` asks it.
fn attach_all(dir: &Path, cgroup: &Cgroup, headers: &[Header]) -> Result<(), EnforcerError> {
    let is_missing = |name: &str| {
        let is_asked = headers.iter().any(|header| is_asked(name, header));
        is_asked && !dir.join(link_name(name)).exists()
    };
    for (name, hook) in CGROUP_PROGRAMS {
        if is_missing(name) {
            let link = attach_to_cgroup(&dir.join(program_name(name)), hook, cgroup)
                .map_err(|error| refused(name, &cgroup.path, &error))?;
            pin(link, &dir.join(link_name(name)))?;
        }
    }
    if cgroup.is_root && is_missing(LOOKUP) {
        let [netns, own] = NETNS.map(Path::new);
        let file = File::open(netns).or_else(|_| File::open(own));
        let file = file.map_err(|error| file_error(netns, error))?;
        let link = attach_to_netns(&dir.join(program_name(LOOKUP)), &file)
            .map_err(|error| refused(LOOKUP, netns, &error))?;
        pin(link, &dir.join(link_name(LOOKUP)))?;
    }
    Ok(())
}

fn attach_to_cgroup(program: &Path, hook: Hook, cgroup: &Cgroup) -> Result<FdLink, ProgramError> {
    // Links are shared by nature, and take no flag that says so.
    let mode = CgroupAttachMode::Single;
    let link = match hook {
        Hook::Address(hook) => {
            let mut program = CgroupSockAddr::from_pin(program, hook)?;
            let id = program.attach(&cgroup.file, mode)?;
            FdLink::try_from(program.take_link(id)?)
        }
        Hook::Ingress => {
            let ingress = CgroupSkbAttachType::Ingress;
            let mut program = CgroupSkb::from_pin(program, ingress)?;
            let id = program.attach(&cgroup.file, ingress, mode)?;
            FdLink::try_from(program.take_link(id)?)
        }
    };
    // Linux 5.8 and later attach by link.
    link.map_err(|_| ProgramError::NotAttached)
}

fn attach_to_netns(program: &Path, netns: &File) -> Result<FdLink, ProgramError> {
    let mut program = SkLookup::from_pin(program)?;
    let id = program.attach(netns)?;
    Ok(program.take_link(id)?.into())
}
