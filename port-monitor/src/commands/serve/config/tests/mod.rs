//! Every wrong value of a configuration is told with its place, and every right one is what
//! the flag of that name takes.

mod exports;

use boon::{Compiler, Schemas};
use serde_json::Value;

use super::{keys::SECTION_NAMES, *};
use crate::policy::Diagnostic;

fn found(text: &str) -> Vec<Diagnostic> {
    read("c.toml".to_owned(), text.to_owned())
        .err()
        .unwrap_or_default()
}

/// The one thing that is wrong, as `LINE:COLUMN: message`, and what to do about it.
fn wrong(text: &str) -> (String, Option<String>) {
    let found = found(text);
    let [one] = &*found else {
        panic!("{text}: {found:#?}");
    };
    let told = format!("{}:{}: {}", one.line(), one.column(), one.problem);
    (told, one.problem.help())
}

/// What a text asks for, without the sections.
fn flags(text: &str) -> Vec<String> {
    let Read { asked, .. } = read("c.toml".to_owned(), text.to_owned())
        .unwrap_or_else(|found| panic!("{text}: {found:?}"));
    let all = asked.into_iter().flat_map(|(_, flags)| flags);
    all.map(|flag| flag.into_string().unwrap()).collect()
}

/// Configurations, and the one thing that is wrong with each.
const WRONG: [(&str, &str); 68] = [
    ("[wacth]\n", "1:2: unknown key `wacth`"),
    ("watch = 1\n", "1:9: expected a table, found integer"),
    (
        "[watch]\nring_size = \"4M\"\n",
        "2:1: unknown key `ring_size`",
    ),
    ("[watch]\ncount = 1\n", "2:1: unknown key `count`"),
    (
        "[watch]\ntest-fault = \"x\"\n",
        "2:1: unknown key `test-fault`",
    ),
    (
        "[watch]\nbackend = \"fentri\"\n",
        "2:11: expected auto or fentry or kprobe or tracepoint, found `fentri`",
    ),
    (
        "[watch]\nbackend = 1\n",
        "2:11: expected text in quotes, found integer",
    ),
    (
        "[watch]\nbackend = [\"auto\"]\n",
        "2:11: expected text in quotes, found array",
    ),
    (
        "[watch]\nring-size = \"5000\"\n",
        "2:13: must be a power of two, 4096 or more: try 8192",
    ),
    (
        "[watch]\nring-size = 5000\n",
        "2:13: must be a power of two, 4096 or more: try 8192",
    ),
    (
        "[watch]\nring-size = true\n",
        "2:13: expected a number, or text in quotes, found boolean",
    ),
    (
        "[watch]\nring-size = 99999999999999999999\n",
        "2:13: not a size: write 65536, 64K or 4M",
    ),
    (
        "[watch]\nring-size = 1.5\n",
        "2:13: expected a number, or text in quotes, found float",
    ),
    (
        "[watch]\nlatency = 5\n",
        "2:11: `5` has no unit: write 1s or less, such as 5ms",
    ),
    (
        "[watch]\nlatency = \"2s\"\n",
        "2:11: more than 1 s: write 1s or less",
    ),
    (
        "[watch]\nprogress = \"1ms\"\n",
        "2:12: less than 100 ms: write 100ms or more",
    ),
    (
        "[watch]\nmax-connections = 1\n",
        "2:19: not a number of connections: write 16 to 16777216",
    ),
    (
        "[watch]\nprocess-args = \"yes\"\n",
        "2:16: expected true or false, found string",
    ),
    (
        "[watch]\nevents = [\"conect\"]\n",
        "2:11: expected connect or accept or connected or failed or close or preexisting or listen or unlisten or restored, found `conect`",
    ),
    ("[watch]\nevents = []\n", "2:10: empty list matches nothing"),
    (
        "[watch]\nport = [22, 70000]\n",
        "2:13: port 70000 is out of range: ports are 0-65535",
    ),
    (
        "[watch]\nlocal-port = \"htpps\"\n",
        "2:14: unknown service `htpps`: did you mean `https`?",
    ),
    (
        "[watch]\nremote-port = \"9-1\"\n",
        "2:15: port range 9-1 is reversed: write 1-9",
    ),
    (
        "[watch]\nremote = [\"10.0.0.0/8\", \"10.1.2.3/8\"]\n",
        "2:25: bad network: `10.1.2.3/8` has bits set beyond its prefix: did you mean `10.0.0.0/8`?",
    ),
    (
        "[watch]\nremote = 10\n",
        "2:10: expected text in quotes, found integer",
    ),
    (
        "[watch]\nuser = [\"root\", \"rooot\"]\n",
        "2:17: unknown user `rooot`: did you mean `root`?",
    ),
    (
        "[watch]\ncomm = \"systemd-resolved\"\n",
        "2:8: thread name `systemd-resolved` is longer than the 15 bytes the kernel keeps: did you mean `systemd-resolve`?",
    ),
    (
        "[watch]\npid = 0\n",
        "2:7: not a process id: write a number as `ps` shows it",
    ),
    (
        "[watch]\npid = 4194305\n",
        "2:7: no process 4194305: it has ended, or never was there",
    ),
    (
        "[watch]\ndirection = \"up\"\n",
        "2:13: expected in or out, found `up`",
    ),
    (
        "[watch]\nipv4 = true\nipv6 = true\n",
        "2:1: `ipv4` does not go with `ipv6`",
    ),
    (
        "[watch]\nipv4 = 1\n",
        "2:8: expected true or false, found integer",
    ),
    (
        "[watch]\nbtf = \"vmlinux\"\n",
        "2:7: `vmlinux` is not an absolute path",
    ),
    (
        "[watch]\nbackend = \"auto\"\nbackend = \"auto\"\n",
        "3:1: duplicate key",
    ),
    (
        "[watch]\nunit = { a = 1 }\n",
        "2:8: expected text in quotes, found table",
    ),
    ("[policy]\n", "1:1: `file` is missing"),
    (
        "[policy]\nfile = \"policy.toml\"\n",
        "2:8: `policy.toml` is not an absolute path",
    ),
    (
        "[policy]\nfile = [\"/a\", \"/b\"]\n",
        "2:8: expected text in quotes, found array",
    ),
    (
        "[policy]\nfile = \"/p\"\nobserve = \"no\"\n",
        "3:11: expected true or false, found string",
    ),
    ("[policy]\nflie = \"/p\"\n", "2:1: unknown key `flie`"),
    ("[record]\n", "1:1: `file` is missing"),
    (
        "[record]\nfile = 1\n",
        "2:8: expected text in quotes, found integer",
    ),
    (
        "[record]\nfile = \"-\"\n",
        "2:8: `-` is not an absolute path",
    ),
    ("[record]\nfile = \"\"\n", "2:8: `` is not an absolute path"),
    (
        "[[record]]\nfile = \"/r\"\n",
        "1:1: expected a table, found array",
    ),
    (
        "[record]\nfile = \"\\x2fr\"\n",
        "2:9: the escape `\\x` is TOML 1.1, and this file is TOML 1.0",
    ),
    ("[metrics]\n", "1:1: `listen` is missing"),
    (
        "[metrics]\nlisten = 9758\n",
        "2:10: expected text in quotes, found integer",
    ),
    (
        "[metrics]\nlisten = \"localhost:9758\"\n",
        "2:10: not an address with a port: write 127.0.0.1:9758 or [::1]:9758",
    ),
    (
        "[metrics]\nlisten = \"127.0.0.1\"\n",
        "2:10: not an address with a port: write 127.0.0.1:9758 or [::1]:9758",
    ),
    (
        "[metrics]\nfile = \"/a.txt\"\n",
        "2:8: node_exporter reads files whose names end in .prom: name it so",
    ),
    (
        "[metrics]\nfile = \"a.prom\"\n",
        "2:8: `a.prom` is not an absolute path",
    ),
    (
        "[metrics]\nlisen = \"[::1]:1\"\n",
        "2:1: unknown key `lisen`",
    ),
    ("[alert]\n", "1:1: `journal` is missing"),
    ("[alert]\non = \"loss\"\n", "1:1: `journal` is missing"),
    (
        "[alert]\njournal = false\n",
        "2:1: `journal` is off: name another place, or take the section away",
    ),
    (
        "[alert]\njournal = \"yes\"\n",
        "2:11: expected true or false, found string",
    ),
    (
        "[alert]\ncommand = \"mail\"\n",
        "2:1: `mail` is not an absolute path",
    ),
    (
        "[alert]\ncommand = [\"/bin/mail\", 5]\n",
        "2:25: expected text in quotes, found integer",
    ),
    (
        "[alert]\ncommand = [\"/bin/mail\", \"\"]\n",
        "2:25: empty: leave it out",
    ),
    (
        "[alert]\ncommand = \"/bin/\\u0000\"\n",
        "2:11: no argument can have a NUL in it",
    ),
    (
        "[alert]\ncommand = []\n",
        "2:11: empty list matches nothing",
    ),
    (
        "[alert]\njournal = true\non = [\"lost\"]\n",
        "3:7: expected violation or denied or allowed or listener or first-use or loss, found `lost`",
    ),
    (
        "[alert]\njournal = true\nrate = 10\n",
        "3:8: expected text in quotes, found integer",
    ),
    (
        "[alert]\njournal = true\nrate = \"0/m\"\n",
        "3:8: `0/m` is not a rate: write 10/m, 1/s or 100/h",
    ),
    (
        "[alert]\ncommand = \"/bin/mail\"\ntimeout = \"2h\"\n",
        "3:11: more than 1 h: write 1h or less, such as 10s",
    ),
    (
        "[alert]\njournal = true\ntimeout = \"5s\"\n",
        "3:1: there is no command that it is for",
    ),
    ("[record\n", "1:8: unclosed table, expected `]`"),
];

#[test]
fn every_wrong_value_is_told_with_its_place() {
    let mut others = Vec::new();
    for (text, told) in WRONG {
        let (found, _) = wrong(text);
        if found != told {
            others.push((text, found));
        }
    }
    assert_eq!(others, []);
}

#[test]
fn what_is_misspelt_has_a_suggestion() {
    for (text, help) in [
        ("[wacth]\n", "did you mean `watch`?"),
        ("[watch]\nring_size = \"4M\"\n", "did you mean `ring-size`?"),
        ("[watch]\nbackend = \"fentri\"\n", "did you mean `fentry`?"),
        (
            "[record]\nfile = \"/r\"\nfiel = 1\n",
            "did you mean `file`?",
        ),
    ] {
        assert_eq!(wrong(text).1.as_deref(), Some(help), "{text}");
    }
    let (_, help) = wrong("[elsewhere]\n");
    assert_eq!(
        help.unwrap(),
        format!("known here: {}", SECTION_NAMES.join(", "))
    );
}

#[test]
fn one_run_names_everything_that_is_wrong() {
    let found = found("[watch]\nport = [0, 70000, \"x\"]\nbackend = \"b\"\n[record]\n");
    let places: Vec<_> = found.iter().map(|one| (one.line(), one.column())).collect();
    assert_eq!(places, [(2, 12), (2, 19), (3, 11), (4, 1)]);
    let told = render_all("c.toml", &found, crate::policy::Style::Plain);
    assert!(
        told.starts_with("c.toml: 4 errors, nothing was applied\n"),
        "{told}"
    );
    assert!(told.contains("^^^^^"), "{told}");
}

#[test]
fn values_are_what_the_flags_take() {
    let text = "[watch]\nport = [22, \"8000-8100\", \"ssh\"]\npid = 1\nipv4 = true\nipv6 = false\n\
                process-args = true\nuser = [\"root\", 65534]\ncomm = \"-bash\"\nring-size = \"4M\"\n\
                remote = [\"10.0.0.0/8\", \"::1\"]\nevents = [\"connect\", \"close\"]\n\
                [policy]\nfile = \"/p.toml\"\nobserve = true\n[record]\nfile = \"/r.jsonl\"\n\
                [metrics]\nlisten = \"[::1]:9758\"\nfile = \"/m.prom\"\n\
                [alert]\njournal = true\ncommand = [\"/bin/mail\", \"-s\"]\non = [\"loss\", \"denied\"]\n";
    let mut asked = flags(text);
    asked.sort();
    let mut expected = [
        "--port=22,8000-8100,ssh",
        "--pid=1",
        "--ipv4",
        "--process-args",
        "--user=root",
        "--user=65534",
        "--comm=-bash",
        "--ring-size=4M",
        "--remote=10.0.0.0/8",
        "--remote=::1",
        "--events=connect",
        "--events=close",
        "--policy=/p.toml",
        "--policy-observe=true",
        "--record=/r.jsonl",
        "--metrics=[::1]:9758",
        "--metrics-file=/m.prom",
        "--alert-journal",
        "--alert-command=/bin/mail",
        "--alert-command=-s",
        "--alert-on=loss",
        "--alert-on=denied",
    ];
    expected.sort_unstable();
    assert_eq!(asked, expected);
    assert_eq!(flags(""), [""; 0]);
    assert_eq!(flags("# nothing\n[watch]\n"), [""; 0]);
}

/// What stands for nothing at all is not told of as a change.
#[test]
fn steps_are_those_that_differ_and_what_is_fixed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Config::load(&path).unwrap()
    };
    let steps = |before: &str, after: &str| load(before).steps_to(&load(after));
    let of = |leaving: &[&'static str], joining: &[&'static str]| {
        Ok(Steps {
            leaving: leaving.to_vec(),
            joining: joining.to_vec(),
        })
    };
    let (a, b) = ("[record]\nfile = \"/a\"\n", "[record]\nfile = \"/b\"\n");
    assert_eq!(steps(a, &format!("# other\n[watch]\n{a}")), of(&[], &[]));
    assert_eq!(steps("", a), of(&[], &["record"]));
    assert_eq!(steps(a, ""), of(&["record"], &[]));
    assert_eq!(steps(a, b), of(&["record"], &["record"]));
    let fixed = |names: &str| Err(names.to_owned());
    assert_eq!(
        steps(a, "[watch]\nbackend = \"auto\"\nport = [1, 2]\n"),
        fixed("port in [watch], backend in [watch]")
    );
    assert_eq!(
        steps("[watch]\nport = 1\n", "[watch]\nport = 2\n"),
        fixed("port in [watch]")
    );
    // A file that stays is not opened a second time.
    let history = |rest: &str| format!("[history]\nfile = \"/h\"\n{rest}");
    assert_eq!(
        steps(&history(""), &history("keep = \"7d\"\n")),
        fixed("keep in [history]")
    );
    assert_eq!(steps(a, &history("")), of(&["record"], &["history"]));
    let metrics = |rest: &str| format!("[metrics]\n{rest}");
    let (here, there) = ("listen = \"[::1]:1\"\n", "listen = \"[::1]:2\"\n");
    let file = "file = \"/a.prom\"\n";
    let anew = || of(&["metrics"], &["metrics"]);
    assert_eq!(steps("", &metrics(here)), of(&[], &["metrics"]));
    assert_eq!(steps(&metrics(here), &metrics(there)), anew());
    assert_eq!(steps(&metrics(here), &metrics(file)), anew());
    // Nor is an address that stays.
    let both = metrics(&format!("{here}{file}"));
    assert_eq!(steps(&metrics(here), &both), fixed("file in [metrics]"));
    assert_eq!(steps(&both, &metrics(file)), fixed("listen in [metrics]"));
    // The journal takes what both say.
    let alert = |rest: &str| format!("[alert]\njournal = true\n{rest}");
    let other = alert("rate = \"1/s\"\n");
    assert_eq!(steps(&alert(""), &other), of(&["alert"], &["alert"]));
    assert_eq!(steps(&other, &other), of(&[], &[]));
    let policy = dir.path().join("policy.toml");
    std::fs::write(&policy, "version = 1\n").unwrap();
    let with_policy = format!("[policy]\nfile = \"{}\"\n", policy.display());
    assert_eq!(steps(&with_policy, a), fixed("file in [policy]"));
    assert_eq!(steps(a, &with_policy), fixed("file in [policy]"));
    // Another one takes its place while consumers go on.
    let other = dir.path().join("other.toml");
    std::fs::write(&other, "version = 1\n").unwrap();
    let with_other = format!(
        "[policy]\nfile = \"{}\"\nobserve = true\n{a}",
        other.display()
    );
    assert_eq!(steps(&with_policy, &with_other), of(&[], &["record"]));
}

/// A policy that is enforced is followed where it is, and from the start.
#[test]
fn whether_and_where_a_policy_is_enforced_takes_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Config::load(&path).unwrap()
    };
    let observing = "[policy]\nfile = \"/one.toml\"\n";
    let one = format!("{observing}observe = false\n");
    let other = one.replace("one", "other");
    let asked = |text: &str| {
        let config = load(text);
        let paths = [config.observed(), config.enforced()];
        paths.map(|path| path.map(Path::to_owned))
    };
    assert_eq!(asked(observing), [Some("/one.toml".into()), None]);
    assert_eq!(asked(&one), [None, Some("/one.toml".into())]);
    for (before, after, fixed) in [
        (&*one, &*one, None),
        (&one, &other, Some("file in [policy]")),
        (&one, observing, Some("observe in [policy]")),
        (observing, &one, Some("observe in [policy]")),
        (observing, &other, Some("observe in [policy]")),
    ] {
        let steps = load(before).steps_to(&load(after));
        assert_eq!(steps.err().as_deref(), fixed, "{before}{after}");
    }
}

/// The schema takes what the parser takes, and refuses what it refuses by its form.
#[test]
fn schema_has_the_form_that_the_parser_knows() {
    let mut compiler = Compiler::new();
    compiler.add_resource("c.json", json_schema()).unwrap();
    let mut schemas = Schemas::new();
    let index = compiler.compile("c.json", &mut schemas).unwrap();
    let takes = |text: &str| {
        let value: Value = toml::from_str(text).unwrap();
        schemas.validate(&value, index).is_ok()
    };
    for text in [
        "",
        "[watch]\nport = [22, \"ssh\"]\nuser = \"root\"\nbackend = \"auto\"\nipv4 = true\n",
        "[policy]\nfile = \"/p\"\nobserve = true\n[record]\nfile = \"/r\"\n",
        "[policy]\nfile = \"/p\"\nobserve = false\n",
        "[metrics]\nlisten = \"127.0.0.1:1\"\n",
        "[metrics]\nfile = \"/m.prom\"\n",
        &format!("{HISTORY}{EXPORT}"),
        "[alert]\ncommand = [\"/bin/mail\", \"-s\"]\non = \"loss\"\nrate = \"1/s\"\n",
    ] {
        assert!(takes(text) && found(text).is_empty(), "{text}");
    }
    for text in [
        "[wacth]\n",
        "[watch]\nring_size = 1\n",
        "[watch]\nbackend = \"fentri\"\n",
        "[watch]\nipv4 = 1\n",
        "[watch]\nevents = []\n",
        "[watch]\nring-size = [1]\n",
        "[policy]\nobserve = true\n",
        "[policy]\nfile = \"/p\"\nobserve = \"false\"\n",
        "[record]\nfile = \"r\"\n",
        "[metrics]\n",
        "[metrics]\nlisten = 1\n",
        EXPORT,
        &format!("{HISTORY}[export.A]\ntype = \"clickhouse\"\nurl = \"http://a\"\n"),
        &format!("{HISTORY}[export.a]\nurl = \"http://a\"\n"),
        "[alert]\nrate = \"1/s\"\n",
        "[alert]\njournal = true\non = \"lost\"\n",
    ] {
        assert!(!takes(text) && !found(text).is_empty(), "{text}");
    }
}

/// What a flag asks for beside it is looked at when all flags are there.
#[test]
fn a_flag_that_needs_another_one_is_right_alone() {
    let alone = OsString::from("--rotate-size=64K");
    assert_eq!(read::tried("other", Some(&alone)), Ok(()));
    let wrong = OsString::from("--rotate-size=64X");
    assert!(read::tried("other", Some(&wrong)).is_err());
}

const HISTORY: &str = "[history]\nfile = \"/h\"\n";
const EXPORT: &str = "[export.one]\ntype = \"clickhouse\"\nurl = \"http://a:8123\"\n";
