//! What commands get, and what those do not hold up that go wrong.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, test_kill_process};

use super::*;

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// Alerts by a shell script, in a directory of its own.
struct Script {
    dir: TempDir,
    alerts: Alerts,
}

impl Script {
    /// The script, which finds the directory in `$1`.
    fn new(script: &str, limit: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        let argv = ["/bin/sh", "-c", script, "sh", &path].map(str::to_owned);
        let mut alerts = Alerts::new(&EVERY, "1000/s".parse().unwrap());
        alerts.commands = Some(Commands::new(argv.to_vec(), limit));
        alerts.take(Item::Header(&header()));
        Self { dir, alerts }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Tells of this many different events.
    fn take(&mut self, count: u16) {
        for port in 0..count {
            self.alerts.take(Item::Event(&to(port)));
        }
    }

    /// Looks until all commands have ended.
    fn wait(&mut self) -> Account {
        self.look_until(|alerts| alerts.commands.as_ref().unwrap().is_idle());
        let account = self.alerts.account();
        assert!(account.adds_up());
        account
    }

    fn look_until(&mut self, is_so: impl Fn(&Alerts) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.alerts) {
            assert!(begun.elapsed() < PATIENCE);
            self.alerts.look(Instant::now());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn wait_for(path: &Path) {
    let begun = Instant::now();
    while fs::read_to_string(path).unwrap_or_default().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{}", path.display());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_command_reads_one_line_and_knows_nothing_else_of_us() {
    let script = "cat > $1/line; env > $1/env; pwd > $1/pwd; cut -d' ' -f5 /proc/$$/stat > $1/group; \
                  echo $$ > $1/pid";
    let mut script = Script::new(script, PATIENCE);
    script.take(1);
    assert_eq!(script.wait().taken, 1);
    let line = script.read("line");
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(line.ends_with("}\n") && line.lines().count() == 1);
    assert_eq!(told["port_monitor"]["alert"]["kind"], "violation");
    assert_eq!(told["rule"]["name"], "no-telnet");
    let environment = script.read("env");
    let names = environment
        .lines()
        .filter_map(|line| line.split('=').next());
    // The shell itself adds the others.
    let names: Vec<_> = names
        .filter(|name| !["PWD", "_", "OLDPWD", "SHLVL"].contains(name))
        .collect();
    assert_eq!(names, ["PATH"]);
    assert_eq!(script.read("pwd"), "/\n");
    assert_eq!(script.read("group").trim(), script.read("pid").trim());
}

#[test]
fn what_goes_wrong_is_counted_and_the_next_one_is_tried() {
    let script = "[ -e $1/ok ] || { echo no >&2; exit 3; }";
    let mut script = Script::new(script, PATIENCE);
    script.take(2);
    let account = script.wait();
    assert_eq!((account.taken, account.dropped.failed), (0, 2));
    assert_eq!(account.error.unwrap(), "/bin/sh: exit status 3");
    fs::write(script.path("ok"), "").unwrap();
    script.alerts.take(Item::Event(&to(3)));
    let account = script.wait();
    assert_eq!((account.taken, account.dropped.failed), (1, 2));
    assert_eq!(account.error, None);
    // One that reads nothing has not failed.
    let mut script = Script::new("exec <&-", PATIENCE);
    script.take(1);
    assert_eq!(script.wait().taken, 1);
    let mut script = Script::new("kill -TERM $$", PATIENCE);
    script.take(1);
    assert_eq!(script.wait().error.unwrap(), "/bin/sh: killed by signal 15");
}

#[test]
fn a_command_that_cannot_be_started_is_told() {
    let mut script = Script::new("", PATIENCE);
    let argv = vec!["/none/here".to_owned()];
    script.alerts.commands = Some(Commands::new(argv, PATIENCE));
    script.take(2);
    let account = script.wait();
    assert_eq!((account.taken, account.dropped.failed), (0, 2));
    let error = account.error.unwrap();
    assert!(error.starts_with("/none/here: No such file"), "{error}");
}

#[test]
fn one_that_takes_too_long_is_killed_with_what_it_has_started() {
    let script = "sleep 1000 & echo $! > $1/child; wait";
    let mut script = Script::new(script, Duration::from_millis(300));
    script.take(1);
    wait_for(&script.path("child"));
    let account = script.wait();
    assert_eq!((account.taken, account.dropped.failed), (0, 1));
    assert_eq!(account.error.unwrap(), "/bin/sh: took longer than 300ms");
    let child: i32 = script.read("child").trim().parse().unwrap();
    let child = Pid::from_raw(child).unwrap();
    let begun = Instant::now();
    // Somebody else waits for it.
    while is_running(child) {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    }
}

/// It is there, and more than a zombie.
fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_ok() && stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn no_more_than_four_run_and_the_others_wait() {
    let script = "cat > $1/$$; until [ -e $1/go ]; do sleep 0.01; done";
    let mut script = Script::new(script, PATIENCE);
    script.take(20);
    let count = |dir: &Path| fs::read_dir(dir).unwrap().count();
    let dir = script.dir.path().to_owned();
    script.look_until(|_| count(&dir) >= 4);
    for _ in 0..50 {
        script.alerts.look(Instant::now());
        assert_eq!(count(&dir), 4);
    }
    fs::write(script.path("go"), "").unwrap();
    assert_eq!(script.wait().taken, 20);
    assert_eq!(count(&dir), 21);
}

#[test]
fn more_than_can_wait_are_dropped_and_the_end_does_not_wait_for_ever() {
    let script = "echo $$ > $1/$$; exec sleep 1000";
    let mut script = Script::new(script, PATIENCE * 10);
    script.take(100);
    let account = script.alerts.account();
    // Four run, and 64 wait.
    assert_eq!((account.taken, account.dropped.failed), (0, 32));
    let error = account.error.unwrap();
    assert_eq!(error, "/bin/sh: too many alerts wait for it");
    let begun = Instant::now();
    script.alerts.settle();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let account = script.alerts.account();
    assert_eq!((account.taken, account.dropped.failed), (0, 100));
    assert!(account.adds_up());
    for entry in fs::read_dir(script.dir.path()).unwrap() {
        let name = entry.unwrap().file_name();
        let pid: i32 = name.to_str().unwrap().parse().unwrap();
        let left = test_kill_process(Pid::from_raw(pid).unwrap());
        assert!(left.is_err(), "{pid} was not waited for");
    }
}

#[test]
fn an_alert_that_the_journal_does_not_take_is_not_taken() {
    let mut script = Script::new("cat > $1/line", PATIENCE);
    script.alerts.journal = Some(Journal::at(script.path("none")));
    script.take(1);
    let account = script.wait();
    assert_eq!((account.taken, account.dropped.failed), (0, 1));
    assert!(script.read("line").ends_with("}\n"));
}
