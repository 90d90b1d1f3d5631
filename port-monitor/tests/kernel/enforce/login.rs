//! A policy that is applied in a session of ssh, under sudo, as people do it.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{ioctl_tiocsctty, setsid};

use super::{BPF_FS_VARIABLE, expect_success, life};
use crate::{
    cgroup,
    lab::Lab,
    process::{PATIENCE, terminal},
    report::Verdict,
};

/// Where sshd runs, as systemd has it.
const CGROUP: &str = "/system.slice/ssh.service";
const PORT: u16 = 2222;
/// How many of the tries are made on a terminal too.
const ON_A_TERMINAL: usize = 3;
/// How long a connection that is refused does not come about.
const IN_VAIN: Duration = Duration::from_secs(3);
/// Who logs in.
const USER: &str = "alice";

/// What is applied, and the rule that is in the way, if one is.
struct Try {
    name: &'static str,
    policy: String,
    /// What stands before `port-monitor`.
    through: &'static str,
    refused_by: Option<&'static str>,
}

impl Try {
    fn new(name: &'static str, rule: &str, refused_by: Option<&'static str>) -> Self {
        Self {
            name,
            policy: life::policy("enforce", rule),
            through: "sudo",
            refused_by,
        }
    }
}

fn rule(direction: &str, what: &str) -> String {
    format!("[[rule]]\nname = \"no-ssh\"\ndirection = \"{direction}\"\naction = \"deny\"\n{what}\n")
}

fn tries() -> Vec<Try> {
    const RULE: Option<&str> = Some("rule `no-ssh`");
    let port = format!("port = {PORT}");
    let failsafe = format!("[failsafe]\ninbound = [{{ port = {PORT}, from = \"127.0.0.0/8\" }}]\n");
    let default = "version = 1\nmode = \"enforce\"\n[default]\ninbound = { action = \"deny\", \
                   loopback = \"filter\" }\n";
    vec![
        Try::new("port", &rule("in", &port), RULE),
        Try::new("network", &rule("in", "from = \"127.0.0.1\""), RULE),
        Try::new("unit", &rule("in", "unit = \"ssh.service\""), RULE),
        Try::new(
            "cgroup",
            &rule("in", &format!("cgroup = \"{CGROUP}\"")),
            RULE,
        ),
        Try::new("user", &rule("in", "user = \"root\""), RULE),
        Try::new("listener", &rule("listen", &port), RULE),
        Try {
            policy: default.to_owned(),
            ..Try::new("default", "", Some("the default"))
        },
        Try {
            through: "sudo env -i",
            ..Try::new("bare", &rule("in", &port), RULE)
        },
        Try {
            policy: life::policy("observe", &rule("in", &port)),
            ..Try::new("observed", "", None)
        },
        Try::new("failsafe", &(failsafe + &rule("in", &port)), None),
        Try::new("other-port", &rule("in", "port = 23"), None),
        Try::new("other-network", &rule("in", "from = \"10.0.0.0/8\""), None),
        Try::new("other-unit", &rule("in", "unit = \"web.service\""), None),
        Try::new("other-user", &rule("in", "user = \"alice\""), None),
    ]
}

/// A server of ssh, in the cgroup of its unit.
struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    fn start(lab: &Lab) -> Result<Self> {
        let dir = lab.new_path("ssh");
        fs::create_dir_all(dir.join(".ssh"))?;
        fs::create_dir_all("/run/sshd")?;
        furnish(&dir)?;
        for key in ["host", "own"] {
            let mut keygen = Command::new("/bin/ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
            expect_success(&keygen.arg(dir.join(key)).output()?)?;
        }
        let at = dir.display();
        let config = format!(
            "Port {PORT}\nHostKey {at}/host\nAuthorizedKeysFile {at}/own.pub\nStrictModes \
             no\nPidFile none\nUseDNS no\n"
        );
        fs::write(dir.join("config"), config)?;
        let group = cgroup::directory(CGROUP)?;
        fs::create_dir_all(&group)?;
        let script = format!(
            "echo 0 >{}/cgroup.procs; exec /bin/sshd -D -e -f {at}/config",
            group.display()
        );
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script])
            .env_remove(BPF_FS_VARIABLE)
            .stderr(Stdio::piped())
            .spawn()
            .context("start sshd")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let is_up = lines.any(|line| line.is_ok_and(|line| line.starts_with("Server listening")));
        ensure!(is_up, "sshd did not start");
        // It writes on.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, dir })
    }

    /// What applies the policies, one after another.
    fn script(&self, lab: &Lab, tries: &[Try]) -> Result<String> {
        let (program, dir) = (lab.program.display(), self.dir.display());
        let mut script = String::new();
        for Try { name, through, .. } in tries {
            // Writing to a string does not fail.
            _ = write!(
                script,
                "echo \"== {name}\"\n{through} {program} apply {dir}/{name} --no-confirm \
                 2>&1\necho \"exit $?\"\nsudo {program} panic-open >/dev/null 2>&1\n"
            );
        }
        let path = self.dir.join("script");
        fs::write(&path, script)?;
        Ok(format!("sh {}", path.display()))
    }

    /// A command, run by whoever logs in.
    fn run(&self, more: &[&str], command: &str) -> Result<Output> {
        let mut ssh = Command::new("/bin/ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes"])
            .args(["-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .args(["-p", &PORT.to_string(), "-i"])
            .arg(self.dir.join("own"))
            .args(more)
            .args([&format!("{USER}@127.0.0.1"), command])
            .stdin(Stdio::null());
        Ok(ssh.output()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Users, and sudo for them.
fn furnish(home: &Path) -> Result<()> {
    let passwd = format!(
        "root:x:0:0::/tmp:/bin/sh\nsshd:x:74:65534::/run/sshd:/bin/false\n{USER}:x:1000:1000::{}:\
         /bin/sh\n",
        home.display()
    );
    fs::write("/etc/passwd", passwd)?;
    fs::create_dir_all("/etc/pam.d")?;
    let permit =
        ["auth", "account", "session"].map(|kind| format!("{kind} required pam_permit.so\n"));
    fs::write("/etc/pam.d/sudo", permit.concat())?;
    let sudoers =
        format!("Defaults env_reset\nroot ALL=(ALL) ALL\n{USER} ALL=(ALL) NOPASSWD: ALL\n");
    fs::write("/etc/sudoers", sudoers)?;
    fs::set_permissions("/etc/sudoers", fs::Permissions::from_mode(0o440))?;
    fs::set_permissions("/bin/sudo", fs::Permissions::from_mode(0o4755))?;
    Ok(())
}

/// What would refuse the session is refused, and the rest is applied.
pub(crate) fn under_sudo(lab: &Lab) -> Result<Verdict> {
    let server = Server::start(lab)?;
    let tries = tries();
    for one in &tries {
        fs::write(server.dir.join(one.name), &one.policy)?;
    }
    agrees_with_the_kernel(lab, &server)?;
    // Without a terminal, and some of them on one.
    let some = &tries[..ON_A_TERMINAL];
    for (more, tries) in [(&[][..], &tries[..]), (&["-tt"], some)] {
        let command = server.script(lab, tries)?;
        let output = server.run(more, &command)?;
        let text = String::from_utf8(output.stdout)?.replace('\r', "");
        for one in tries {
            one.expect(&text)
                .with_context(|| format!("{} {more:?}", one.name))?;
        }
    }
    on_a_terminal_of_nobody(lab, &server)?;
    Ok(Verdict::Pass(format!(
        "{} policies",
        tries.len() + some.len()
    )))
}

impl Try {
    /// What was said of it.
    fn expect(&self, text: &str) -> Result<()> {
        let (_, said) = text
            .split_once(&format!("== {}\n", self.name))
            .with_context(|| format!("not tried: {text}"))?;
        let said = said.split("\n== ").next().unwrap_or_default();
        let words = match self.refused_by {
            None => vec!["applied", "exit 0"],
            Some(by) => vec![
                "would refuse this ssh session, from 127.0.0.1 to port 2222",
                by,
                "--force",
                "exit 5",
            ],
        };
        for word in words {
            ensure!(said.contains(word), "no `{word}` in: {said}");
        }
        Ok(())
    }
}

fn command(lab: &Lab, words: &[&str]) -> Command {
    let mut command = Command::new(&lab.program);
    command.args(words).env_remove(BPF_FS_VARIABLE);
    command
}

/// The kernel does refuse what was said to be refused.
fn agrees_with_the_kernel(lab: &Lab, server: &Server) -> Result<()> {
    // What is dropped is sent again and again.
    let connect =
        |patience| TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, PORT).into(), patience);
    connect(PATIENCE).context("before")?;
    for name in ["unit", "user", "listener"] {
        let path = server.dir.join(name);
        let mut apply = command(lab, &["apply", "--force", "--confirm", "60s"]);
        expect_success(&apply.arg(&path).output()?)?;
        let during = connect(IN_VAIN);
        expect_success(&command(lab, &["panic-open"]).output()?)?;
        ensure!(during.is_err(), "{name}: not refused");
    }
    connect(PATIENCE).context("after").map(drop)
}

/// On a terminal that leads to no session it cannot be told.
fn on_a_terminal_of_nobody(lab: &Lab, server: &Server) -> Result<()> {
    let (_master, slave) = terminal()?;
    let path = server.dir.join("other-port");
    let apply = |more: &[&str]| -> Result<Output> {
        let mut apply = command(lab, &["apply"]);
        apply.arg(&path).args(more).stdin(slave.try_clone()?);
        let take_terminal = || {
            setsid()?;
            ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        };
        // SAFETY: system calls only, between fork and exec.
        unsafe { apply.pre_exec(take_terminal) };
        Ok(apply.output()?)
    };
    let refused = apply(&["--no-confirm"])?;
    let stderr = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(5), "{stderr}");
    for word in ["cannot be told", "pseudo terminal", "--confirm", "--force"] {
        ensure!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
    for more in [&["--confirm", "60s"][..], &["--force"]] {
        expect_success(&apply(more)?)?;
        expect_success(&command(lab, &["panic-open"]).output()?)?;
    }
    Ok(())
}
