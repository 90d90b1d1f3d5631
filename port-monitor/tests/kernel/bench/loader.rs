//! The C programs that are the least a monitor or a verdict can cost, loaded and
//! attached.

use std::{fs::File, io, os::fd::AsFd as _, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf,
    maps::{
        RingBuf,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{CgroupAttachMode, CgroupSockAddr, FEntry, FExit},
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::process::say;

/// How long the floor lets records gather: as port-monitor does.
const LATENCY: Duration = Duration::from_millis(5);

/// What is loaded.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    what: What,
    /// The compiled programs
    object: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// A record for each attempt and each accept, read and forgotten
    Floor,
    /// A program that does nothing
    Empty,
    /// A verdict that does nothing
    VerdictEmpty,
    /// One look into a hash for each verdict
    VerdictHash,
    /// Two hashes, a trie and a counter for each verdict
    VerdictFull,
}

/// Attaches the programs until standard input ends.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut ebpf = Ebpf::load_file(&args.object).context("load the C programs")?;
    match args.what {
        What::Floor => {
            attach_entry(&mut ebpf, "floor_connect")?;
            attach_accept(&mut ebpf)?;
            let ring = ebpf.take_map("floor_ring").context("no ring")?;
            say(&count(RingBuf::try_from(ring)?)?.to_string())
        }
        What::Empty => {
            attach_entry(&mut ebpf, "floor_empty")?;
            until_input_ends()
        }
        What::VerdictEmpty => judge(&mut ebpf, "limit_empty"),
        What::VerdictHash => judge(&mut ebpf, "limit_hash"),
        What::VerdictFull => {
            // The network that the rules beside it are about.
            let networks = ebpf.map_mut("limit_networks").context("no networks")?;
            let mut networks = LpmTrie::<_, u32, u32>::try_from(networks)?;
            networks.insert(&Key::new(8, u32::from_ne_bytes([127, 0, 0, 0])), 0, 0)?;
            judge(&mut ebpf, "limit_full")
        }
    }
}

fn attach_entry(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program: &mut FEntry = ebpf.program_mut(name).context("no program")?.try_into()?;
    program.load("tcp_connect", &Btf::from_sys_fs()?)?;
    program.attach()?;
    Ok(())
}

fn attach_accept(ebpf: &mut Ebpf) -> Result<()> {
    let program = ebpf.program_mut("floor_accept").context("no program")?;
    let program: &mut FExit = program.try_into()?;
    program.load("inet_csk_accept", &Btf::from_sys_fs()?)?;
    program.attach()?;
    Ok(())
}

/// Has the program judge every connect of this machine.
fn judge(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program: &mut CgroupSockAddr = ebpf.program_mut(name).context("no program")?.try_into()?;
    program.load()?;
    program.attach(File::open("/sys/fs/cgroup")?, CgroupAttachMode::Single)?;
    until_input_ends()
}

fn until_input_ends() -> Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}

/// Reads records until standard input ends; how many there were.
fn count(mut ring: RingBuf<aya::maps::MapData>) -> Result<u64> {
    let stdin = io::stdin();
    let mut records = 0;
    loop {
        let (is_readable, has_ended) = {
            let mut ready = [
                PollFd::new(&ring, PollFlags::IN),
                PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
            ];
            poll(&mut ready, None)?;
            let [ring, stdin] = ready.map(|fd| !fd.revents().is_empty());
            (ring, stdin)
        };
        if is_readable {
            thread::sleep(LATENCY);
        }
        while ring.next().is_some() {
            records += 1;
        }
        if has_ended {
            return Ok(records);
        }
    }
}
