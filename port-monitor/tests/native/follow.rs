//! `--unit` and `--cgroup` mean what is there and what comes later. Each test makes its
//! cgroups below one of its own, and the command moves itself into them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;

use crate::program::port_monitor;

/// A cgroup of the test's own, without processes; removed with what is below it.
struct Top(PathBuf);

impl Top {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (at, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(at))
        });
        let mount = mount.expect("no cgroup2 is mounted");
        let top = mount.join(format!("port-monitor-{name}-{}", std::process::id()));
        fs::create_dir(&top).unwrap();
        Self(top)
    }

    fn make(&self, path: &str) -> PathBuf {
        let dir = self.0.join(path);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Its path below the mount point.
    fn path(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().display())
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    drop(fs::remove_dir(dir));
}

/// What a run told: who was waited for, and the remote ports of the attempts.
struct Told {
    waiting: Vec<String>,
    ports: Vec<u64>,
}

/// Watches a bash script that has `$top`, and `attempt DIR PORT`: a process that enters
/// the cgroup, and then does nothing but try to connect.
fn watch(top: &Top, args: &[&str], script: &str) -> Told {
    let prelude = "attempt() { \
        (echo $BASHPID > \"$1/cgroup.procs\" && : >/dev/tcp/127.0.0.1/$2) 2>/dev/null; }\n";
    let output = port_monitor(["watch", "-o", "json", "--events", "failed"])
        .args(args)
        .args(["--", "bash", "-c", &format!("set +e; {prelude}{script}")])
        .env("top", &top.0)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut told = Told {
        waiting: Vec::new(),
        ports: Vec::new(),
    };
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        match line["event"]["action"].as_str().unwrap() {
            "start" => {
                let waiting = line["port_monitor"]["waiting"].as_array();
                let waiting = waiting.into_iter().flatten();
                told.waiting = waiting
                    .map(|label| label.as_str().unwrap().to_owned())
                    .collect();
            }
            "failed" => told
                .ports
                .push(line["destination"]["port"].as_u64().unwrap()),
            "summary" => {
                let summary = &line["port_monitor"];
                assert_eq!(summary["table_full"], 0);
                let failures = summary["failures"].as_array();
                assert!(failures.is_none_or(Vec::is_empty), "{summary}");
            }
            _ => {}
        }
    }
    told
}

fn ports(ports: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    ports.collect()
}

#[test]
fn a_unit_that_restarts_is_seen_from_its_first_process_on() {
    let top = Top::new("restart");
    top.make("hm.slice/x.service");
    let script = r"unit=$top/hm.slice/x.service
        for port in {101..200}; do
            attempt $unit $port
            attempt $top 9
            while ! rmdir $unit 2>/dev/null; do :; done
            mkdir $unit
        done";
    let told = watch(&top, &["--unit", "x"], script);
    assert_eq!(told.ports, ports(101..=200));
    assert!(told.waiting.is_empty());
}

#[test]
fn a_unit_that_starts_later_is_waited_for_wherever_it_is() {
    let top = Top::new("later");
    let script = r"attempt $top 9
        mkdir -p $top/a.slice/late.service/payload/sub $top/b.slice/_late.service
        attempt $top/a.slice/late.service 101
        attempt $top/a.slice/late.service/payload/sub 102
        attempt $top/a.slice 9
        attempt $top/b.slice/_late.service 103
        mkdir $top/late.servicex $top/xlate.service
        attempt $top/late.servicex 9
        attempt $top/xlate.service 9";
    let told = watch(&top, &["--unit", "late.service,other"], script);
    assert_eq!(told.ports, ports(101..=103));
    // What else runs here, of which one may have a name much like it, is not this test's.
    let waiting = told.waiting.iter();
    let names: Vec<_> = waiting
        .filter_map(|told| told.split_once(" (unknown here"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["unit late.service", "unit other.service"]);
}

#[test]
fn patterns_templates_and_escaped_names_are_those_of_policies() {
    let top = Top::new("patterns");
    top.make("worker@0.service");
    let script = r#"mkdir $top/worker@1.service "$top/worker@a\\x2db.service" $top/_db-x.scope
        mkdir $top/worker.service $top/user-7.slice "$top/dev-by\\x2did.swap" $top/dby.scope
        attempt $top/worker@0.service 101
        attempt $top/worker@1.service 102
        attempt "$top/worker@a\\x2db.service" 103
        attempt $top/_db-x.scope 104
        attempt $top/user-7.slice 105
        attempt "$top/dev-by\\x2did.swap" 106
        attempt $top/worker.service 9
        attempt $top/dby.scope 9"#;
    let units = r"worker@.service,db-?.scope,user-.slice,dev-by\x2did.swap";
    let told = watch(&top, &["--unit", units], script);
    assert_eq!(told.ports, ports(101..=106));
}

#[test]
fn a_cgroup_is_followed_by_its_path_however_much_of_it_is_made_anew() {
    let top = Top::new("path");
    let path = format!("{}/a/b/c", top.path());
    let script = r"attempt $top 9
        for port in {101..150}; do
            mkdir -p $top/a/b/c/d $top/a/c $top/b/c
            attempt $top/a/b/c/d $port
            attempt $top/a/b 9
            attempt $top/a/c 9
            attempt $top/b/c 9
            for dir in a/b/c/d a/b/c a/b a/c a b/c b; do
                while ! rmdir $top/$dir 2>/dev/null; do :; done
            done
        done";
    let told = watch(&top, &["--cgroup", &path], script);
    assert_eq!(told.ports, ports(101..=150));
    assert_eq!(told.waiting, [format!("cgroup {path}")]);
}

#[test]
fn a_process_that_moves_is_seen_while_it_is_there() {
    let top = Top::new("move");
    let unit = format!("move-{}.service", std::process::id());
    let script = format!(
        r#"mkdir "$top/{unit}"
        bash -c 'try() {{ (: >/dev/tcp/127.0.0.1/$1) 2>/dev/null; }}
            try 9; echo $$ > "$top/{unit}/cgroup.procs"; try 101
            echo $$ > $top/cgroup.procs; try 9'"#
    );
    let told = watch(&top, &["--unit", &unit], &script);
    assert_eq!(told.ports, [101]);
}

#[test]
fn many_units_are_followed_at_once() {
    let top = Top::new("many");
    let units: Vec<_> = (101..=400).map(|n| format!("many-{n}.service")).collect();
    let script = r"for n in {101..400}; do mkdir $top/many-$n.service; done
        for n in {101..400..13}; do attempt $top/many-$n.service $n; done";
    let told = watch(&top, &["--unit", &units.join(",")], script);
    let expected: Vec<u64> = (101..=400).step_by(13).collect();
    assert_eq!(told.ports, expected);
    assert_eq!(told.waiting.len(), 300);
}
