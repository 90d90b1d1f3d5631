//! Loads, attaches and pins the programs: all of them or none.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, Program, ProgramError,
        SkLookup, links::FdLink,
    },
};
use port_monitor_common::{
    config::Config,
    generation::{GENERATION_ABI, SLOTS, TALLIES},
};

use super::{EnforcerError, Instance, attached_to, tables::DENIALS};
use crate::{
    enrich::cgroup::CgroupTree,
    kernel::{self, KernelError, btf, ladder::chain, object},
};

/// The network namespace whose closed ports answer with RST.
const OWN_NETNS: &str = "/proc/self/ns/net";

/// What every enforcement has, attached to the cgroup.
const CGROUP_PROGRAMS: [&str; 8] = [
    "pm_connect4",
    "pm_connect6",
    "pm_sendmsg4",
    "pm_sendmsg6",
    "pm_bind4",
    "pm_bind6",
    "pm_ingress",
    "pm_unlisted",
];
/// Of the whole host's.
const LOOKUP: &str = "pm_lookup";

/// Attaches everything to `cgroup`, or the whole host, and pins it in `dir`.
pub(super) fn install(dir: &Path, cgroup: Option<&Path>) -> Result<(), EnforcerError> {
    let cgroup = open_cgroup(cgroup)?;
    let mut ebpf = load()?;
    // In a directory of another name until all is there: what a crash leaves is not
    // taken for an installation, and goes with the next.
    let unfinished = dir.with_extension("").with_file_name(unfinished_name(dir));
    if unfinished.exists() {
        remove(&unfinished)?;
    }
    fs::create_dir(&unfinished).map_err(|error| file_error(&unfinished, error))?;
    let pinned = pin_all(&mut ebpf, &unfinished, &cgroup)
        .and_then(|()| fs::rename(&unfinished, dir).map_err(|error| file_error(dir, error)));
    if pinned.is_err() {
        // The error that led here tells more than one of this.
        let _ = remove(&unfinished);
    }
    pinned
}

fn unfinished_name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}_unfinished")
}

/// Unpins everything in `dir`; the kernel detaches what nothing else holds.
pub(super) fn remove(dir: &Path) -> Result<(), EnforcerError> {
    let entries = fs::read_dir(dir).map_err(|error| file_error(dir, error))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // Links first: no program runs without its maps' names.
    paths.sort_unstable();
    for path in &paths {
        fs::remove_file(path).map_err(|error| file_error(path, error))?;
    }
    fs::remove_dir(dir).map_err(|error| file_error(dir, error))
}

/// The links in `dir`, and whether each attaches something.
pub(super) fn links(dir: &Path) -> Result<Vec<(String, bool)>, EnforcerError> {
    let names = CGROUP_PROGRAMS.into_iter().chain([LOOKUP]);
    let present = names.filter(|name| dir.join(link_name(name)).exists());
    present
        .map(|name| {
            let place = attached_to(&dir.join(link_name(name)))?;
            Ok((name.to_owned(), place.is_some()))
        })
        .collect()
}

/// Refuses an instance that holds another cgroup than the one that is meant.
pub(super) fn check_cgroup(dir: &Path, instance: &Instance) -> Result<(), EnforcerError> {
    let held = attached_to(&dir.join(link_name("pm_connect4")))?;
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

/// The name under which the first map is pinned a second time. A bpf file system
/// holds no text.
fn version_name() -> String {
    format!("version_{GENERATION_ABI}")
}

fn link_name(program: &str) -> String {
    format!("link_{program}")
}

fn file_error(path: &Path, error: io::Error) -> EnforcerError {
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
    let layout = kernel::read_btf(Path::new(kernel::SYSTEM_BTF))?;
    let offsets = btf::offsets(&layout).map_err(|error| KernelError::Btf {
        path: kernel::SYSTEM_BTF.into(),
        error,
    })?;
    let hits = kernel::counters::of_each_cpu(SLOTS * TALLIES)?;
    let sizes = object::Sizes::enforcer(hits);
    let ebpf = object::load(&offsets, &Config::default(), &sizes, 0);
    Ok(ebpf.map_err(KernelError::from)?)
}

/// Maps first, so that whoever finds a link finds what it asks.
fn pin_all(ebpf: &mut Ebpf, dir: &Path, cgroup: &Cgroup) -> Result<(), EnforcerError> {
    for name in object::POLICY_MAPS.into_iter().chain(["pm_state", DENIALS]) {
        let map = kernel::filters::map(ebpf, name).map_err(KernelError::from)?;
        map.pin(dir.join(name))
            .map_err(|error| KernelError::Map(chain(&error)))?;
    }
    let state = kernel::filters::map(ebpf, "pm_state").map_err(KernelError::from)?;
    state
        .pin(dir.join(version_name()))
        .map_err(|error| KernelError::Map(chain(&error)))?;
    for name in CGROUP_PROGRAMS {
        let link = attach_to_cgroup(ebpf, name, cgroup)
            .map_err(|error| refused(name, &cgroup.path, &error))?;
        pin(link, &dir.join(link_name(name)))?;
    }
    if cgroup.is_root {
        let netns = Path::new(OWN_NETNS);
        let file = File::open(netns).map_err(|error| file_error(netns, error))?;
        let link = attach_to_netns(ebpf, &file).map_err(|error| refused(LOOKUP, netns, &error))?;
        pin(link, &dir.join(link_name(LOOKUP)))?;
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

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, ProgramError> {
    // The object is our own: a program that is not in it was not loaded.
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)
}

fn attach_to_cgroup(ebpf: &mut Ebpf, name: &str, cgroup: &Cgroup) -> Result<FdLink, ProgramError> {
    let program = program(ebpf, name)?;
    // Links are shared by nature, and take no flag that says so.
    let mode = CgroupAttachMode::Single;
    let link = if let Program::CgroupSkb(_) = program {
        let program: &mut CgroupSkb = program.try_into()?;
        program.load()?;
        let id = program.attach(&cgroup.file, CgroupSkbAttachType::Ingress, mode)?;
        FdLink::try_from(program.take_link(id)?)
    } else {
        let program: &mut CgroupSockAddr = program.try_into()?;
        program.load()?;
        let id = program.attach(&cgroup.file, mode)?;
        FdLink::try_from(program.take_link(id)?)
    };
    // Linux 5.8 and later attach by link.
    link.map_err(|_| ProgramError::NotAttached)
}

fn attach_to_netns(ebpf: &mut Ebpf, netns: &File) -> Result<FdLink, ProgramError> {
    let program: &mut SkLookup = program(ebpf, LOOKUP)?.try_into()?;
    program.load()?;
    let id = program.attach(netns)?;
    Ok(program.take_link(id)?.into())
}
