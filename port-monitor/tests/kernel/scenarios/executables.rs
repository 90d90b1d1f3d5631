//! Processes that are gone within a millisecond, and whose executables are found in many
//! ways: each connects to a port that tells which of them it is.

use std::{
    ffi::CString,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            fs::{PermissionsExt as _, symlink},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

use crate::{
    fact::{Fact, Witness},
    process::{await_go, await_release, exit_now, fork, say},
    socket::{V4, open},
    workload::runner_pid,
};

/// How often the short-lived one runs.
pub(crate) const SHORT: usize = 100;
/// What each connects to: nothing listens there.
const FIRST_PORT: u16 = 24_100;

/// How a program is found, in the order of the ports.
const WAYS: [Way; 12] = [
    Way::Short,
    Way::Forked,
    Way::Relative,
    Way::Link,
    Way::Interpreter,
    Way::Deleted,
    Way::Memory,
    Way::Root,
    Way::Mounted,
    Way::Copy("a"),
    Way::Copy("b"),
    Way::Deep,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Short,
    /// Without an `execve` of its own.
    Forked,
    Relative,
    /// By a symbolic link.
    Link,
    /// By a script that names it.
    Interpreter,
    /// Its file is removed before it connects.
    Deleted,
    /// It has never been in a directory.
    Memory,
    /// With another root directory.
    Root,
    /// Mounted over another file, in a mount namespace of its own.
    Mounted,
    /// Of several that have one content and one name.
    Copy(&'static str),
    /// In directories within directories.
    Deep,
}

/// The directory of the programs.
fn home() -> PathBuf {
    PathBuf::from(format!("/tmp/executables-{}", runner_pid()))
}

/// The port of each program, its path as /proc has it while it runs, and how often it
/// connects.
pub(crate) fn expected() -> Result<Vec<(u16, PathBuf, usize)>> {
    let home = home();
    let at = |name: &str| home.join(name);
    let paths = WAYS.iter().map(|way| {
        Ok(match way {
            Way::Short => at("short"),
            Way::Forked => fs::read_link("/proc/self/exe")?,
            Way::Relative => at("relative"),
            Way::Link => at("linked"),
            Way::Interpreter => at("interpreter"),
            Way::Deleted => at("deleted (deleted)"),
            Way::Memory => "/memfd:in-memory (deleted)".into(),
            Way::Root => at("root/inside"),
            Way::Mounted => at("mounted"),
            Way::Copy(directory) => at(directory).join("copy"),
            Way::Deep => at(&deep()).join("deep"),
        })
    });
    let paths = paths.collect::<Result<Vec<_>>>()?;
    let count = |way| if way == Way::Short { SHORT } else { 1 };
    let ports = FIRST_PORT..;
    let all = ports.zip(paths).zip(WAYS);
    Ok(all
        .map(|((port, path), way)| (port, path, count(way)))
        .collect())
}

/// Directories whose names are long, but not too long together.
fn deep() -> String {
    ["d".repeat(200), "e".repeat(200)].join("/")
}

/// Runs all of them.
pub(crate) fn run(_: &Witness) -> Result<()> {
    let home = home();
    fs::create_dir_all(&home)?;
    let result = (FIRST_PORT..)
        .zip(WAYS)
        .try_for_each(|(port, way)| run_one(&home, port, way).with_context(|| format!("{way:?}")));
    fs::remove_dir_all(&home)?;
    result
}

fn run_one(home: &Path, port: u16, way: Way) -> Result<()> {
    let program = |name: &str| install(&home.join(name), port, false);
    match way {
        Way::Short => {
            let path = program("short")?;
            (0..SHORT).try_for_each(|_| run_command(&mut Command::new(&path)))
        }
        Way::Forked => fork(|| {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let refused = rustix::net::connect(&open(V4)?, &to);
            ensure!(
                refused.is_err(),
                "connected to a port where nothing listens"
            );
            exit_now()
        })?
        .gone(),
        Way::Relative => {
            program("relative")?;
            run_command(Command::new("./relative").current_dir(home))
        }
        Way::Link => {
            let link = home.join("link");
            symlink(program("linked")?, &link)?;
            run_command(&mut Command::new(link))
        }
        Way::Interpreter => {
            let interpreter = program("interpreter")?;
            let script = home.join("script");
            fs::write(&script, format!("#!{}\n", interpreter.display()))?;
            make_executable(&script)?;
            run_command(&mut Command::new(script))
        }
        Way::Deleted => {
            let path = install(&home.join("deleted"), port, true)?;
            run_command(&mut Command::new(path))
        }
        Way::Memory => run_in_memory(port),
        Way::Root => {
            program("root/inside")?;
            let root = CString::new(home.join("root").into_os_string().into_encoded_bytes())?;
            let mut command = Command::new("/inside");
            // SAFETY: a system call, by memory that the child has.
            unsafe {
                command.pre_exec(move || Ok(rustix::process::chroot(root.as_c_str())?));
            }
            run_command(&mut command)
        }
        Way::Mounted => run_mounted(&program("original")?, &home.join("mounted")),
        Way::Copy(directory) => {
            let path = program(&format!("{directory}/copy"))?;
            run_command(&mut Command::new(path))
        }
        Way::Deep => {
            let path = program(&format!("{}/deep", deep()))?;
            run_command(&mut Command::new(path))
        }
    }
}

fn run_command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Executes a file that has no directory.
fn run_in_memory(port: u16) -> Result<()> {
    // SAFETY: takes a string that ends with a NUL.
    let fd = unsafe { libc::memfd_create(c"in-memory".as_ptr(), 0) };
    ensure!(fd >= 0, "memfd_create");
    // SAFETY: it is open, and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut file = fs::File::from(file);
    file.write_all(&program(port, false))?;
    run_command(&mut Command::new(format!(
        "/proc/self/fd/{}",
        file.as_raw_fd()
    )))
}

/// Mounts a program over another file and runs it by the path of that, where nobody else
/// sees it.
fn run_mounted(original: &Path, over: &Path) -> Result<()> {
    fs::write(over, "")?;
    let (from, to) = (original.to_owned(), over.to_owned());
    let mut command = Command::new(over);
    let mount = move || {
        // SAFETY: a system call without memory; the child has one thread.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        // Where nothing is mounted but the first file system, there is nothing to change.
        let _ = mount_change("/", private);
        Ok(mount_bind(&from, &to)?)
    };
    // SAFETY: system calls; the child has one thread.
    unsafe {
        command.pre_exec(mount);
    }
    run_command(&mut command)
}

/// Writes a program that connects to the port and ends.
fn install(path: &Path, port: u16, unlinks: bool) -> Result<PathBuf> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, program(port, unlinks)).with_context(|| path.display().to_string())?;
    make_executable(path)?;
    Ok(path.to_owned())
}

fn make_executable(path: &Path) -> Result<()> {
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// Where a program of ours is loaded.
const BASE: u64 = 0x40_0000;
const HEADERS: usize = 0x78;

/// An ELF file of a few instructions for x86-64: it removes the file it was called by, if
/// it `unlinks`, connects to 127.0.0.1, and exits. Nothing is quicker gone.
fn program(port: u16, unlinks: bool) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let mut code = Vec::new();
    if unlinks {
        // mov rdi, [rsp + 8]; mov eax, 87; syscall
        code.extend([0x48, 0x8b, 0x7c, 0x24, 8, 0xb8, 87, 0, 0, 0, 0x0f, 5]);
    }
    // mov eax, 41; mov edi, 2; mov esi, 1; xor edx, edx; syscall
    code.extend([0xb8, 41, 0, 0, 0, 0xbf, 2, 0, 0, 0, 0xbe, 1, 0, 0, 0]);
    code.extend([0x31, 0xd2, 0x0f, 5]);
    // mov edi, eax; lea rsi, [rip + 21]; mov edx, 16; mov eax, 42; syscall
    code.extend([0x89, 0xc7, 0x48, 0x8d, 0x35, 21, 0, 0, 0]);
    code.extend([0xba, 16, 0, 0, 0, 0xb8, 42, 0, 0, 0, 0x0f, 5]);
    // xor edi, edi; mov eax, 231; syscall
    code.extend([0x31, 0xff, 0xb8, 231, 0, 0, 0, 0x0f, 5]);
    code.extend([2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let length = (HEADERS + code.len()) as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // An executable for x86-64, of version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend((BASE + HEADERS as u64).to_le_bytes());
    // One program header behind this one, no sections.
    file.extend(64_u64.to_le_bytes());
    file.extend([0; 8 + 4]);
    file.extend([64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // All of the file is loaded, to be read and executed.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, length, length, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// The process goes on in a thread when its first one has ended: it listens, connects to itself
/// and accepts.
pub(crate) fn first_thread_ended(witness: &Witness) -> Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| {
            let end = match act_alone() {
                Ok(()) => Fact::Done,
                Err(error) => Fact::Failed(format!("{error:#}")),
            };
            let _ = witness.tell(&end).and_then(|()| say("done"));
            await_release();
            exit_now();
        });
        // SAFETY: ends this thread alone, whose stack stays as it is.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    bail!("the first thread goes on")
}

fn act_alone() -> Result<()> {
    while !fs::read_to_string("/proc/self/stat")?.contains(") Z ") {
        thread::yield_now();
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    say("ready")?;
    await_go()?;
    let _client = TcpStream::connect(listener.local_addr()?)?;
    listener.accept()?;
    Ok(())
}
