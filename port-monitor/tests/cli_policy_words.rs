//! What a policy's words mean, from the command line: units, cgroups, users, services,
//! times, and the text itself.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

const EXE: &str = env!("CARGO_BIN_EXE_port-monitor");

fn given(name: &str) -> PathBuf {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policies");
    policies.join(format!("{name}.toml"))
}

fn policy(args: &[&str], path: &Path) -> Output {
    let mut command = Command::new(EXE);
    command.arg("policy").args(args).arg("--policy").arg(path);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Exit status and the standard error output of `policy check`.
fn check(path: &Path) -> (Option<i32>, String) {
    let output = policy(&["check"], path);
    (output.status.code(), text(&output.stderr))
}

/// Who decides on a connection: the name of a rule, or the words for the default.
fn decided_by(name: &str, args: &[&str]) -> String {
    let output = policy(&[&["explain"], args].concat(), &given(name));
    let stdout = text(&output.stdout);
    let line = stdout
        .lines()
        .find_map(|line| line.strip_prefix("decided by   "));
    let Some(line) = line else {
        panic!("{args:?}: {}", text(&output.stderr));
    };
    let end = line.find([' ', ':']).unwrap();
    match line.split_at(end).0 {
        "the" => line.to_owned(),
        rule => rule.to_owned(),
    }
}

fn written(contents: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), contents).unwrap();
    file
}

#[test]
fn two_paths_of_one_program_are_no_error() {
    let (code, said) = check(&given("exe-two-names"));
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn executable_that_is_not_there_is_told_and_the_policy_holds() {
    let file = written(
        "version = 1\n[[rule]]\nname = \"a\"\ndirection = \"out\"\naction = \"deny\"\n\
         exe = \"/no/such/program\"\n",
    );
    let (code, said) = check(file.path());
    assert_eq!(code, Some(0));
    assert!(
        said.contains(
            "6:7: warning: executable `/no/such/program`: No such file or directory (os error 2): the rule \
             matches nothing until it is there"
        ),
        "{said}"
    );
}

#[test]
fn executable_that_is_no_file_is_told_as_that_and_missing_paths_have_no_parents() {
    let file = written(
        "version = 1\n[[rule]]\nname = \"a\"\ndirection = \"out\"\naction = \"deny\"\n\
         exe = \"/no/such/../program\"\n",
    );
    for (exe, is_denied, said) in [
        ("/no/program", true, "/no/program is not on this host"),
        ("/no//./program", true, "is not on this host"),
        ("/no/other/../program", true, "is not on this host"),
        ("/no/other", false, "is not on this host"),
        (
            "/",
            false,
            "/ is not a file: rules are compared with its path",
        ),
        (
            "/usr",
            false,
            "/usr is not a file: rules are compared with its path",
        ),
    ] {
        let args = ["explain", "out", "tcp", "192.0.2.1:1", "--exe", exe];
        let output = policy(&args, file.path());
        let verdict = text(&output.stdout);
        assert_eq!(verdict.contains("violation"), is_denied, "{exe}: {verdict}");
        let told = text(&output.stderr);
        assert!(told.contains(said), "{exe}: {output:?}");
        // Beside what the policy itself warns of.
        let is_told = |line: &&str| line.starts_with("port-monitor: ") && line.contains(said);
        assert_eq!(told.lines().filter(is_told).count(), 1, "{exe}: {told}");
    }
    let args = ["explain", "out", "tcp", "[fe80::1%2]:1"];
    let output = policy(&args, file.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("do not ask for an interface"),
        "{output:?}"
    );
}

#[test]
fn units_are_found_wherever_they_lie_and_templates_match_every_instance() {
    let manager = "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope";
    let session = "/user.slice/user-1000.slice/session-3.scope";
    for (args, rule) in [
        (
            ["out", "tcp", "192.0.2.1:81", "--cgroup", session],
            "user-slice",
        ),
        (
            ["out", "tcp", "192.0.2.1:81", "--unit", "user-1000.slice"],
            "user-slice",
        ),
        (
            ["out", "tcp", "192.0.2.1:82", "--cgroup", manager],
            "user-mgr",
        ),
        (
            ["out", "tcp", "192.0.2.1:83", "--cgroup", manager],
            "user-tmpl",
        ),
        (
            ["out", "tcp", "192.0.2.1:83", "--unit", "user@7.service"],
            "user-tmpl",
        ),
        (
            ["out", "tcp", "192.0.2.1:84", "--cgroup", session],
            "slice-tmpl",
        ),
        (
            ["out", "tcp", "192.0.2.1:84", "--unit", "user-7.slice"],
            "slice-tmpl",
        ),
        (
            ["out", "tcp", "192.0.2.1:82", "--cgroup", session],
            "the outbound default: allow",
        ),
        (
            ["out", "tcp", "192.0.2.1:443", "--unit", "sshd.service"],
            "sshd-alias",
        ),
        (
            ["out", "tcp", "192.0.2.1:80", "--unit", "ssh.service"],
            "ssh-real",
        ),
    ] {
        assert_eq!(decided_by("unit-alias", &args), rule, "{args:?}");
    }
}

/// A policy that denies what a unit sends.
fn denying_unit(unit: &str) -> tempfile::NamedTempFile {
    written(&format!(
        "version = 1\n[[rule]]\nname = \"r\"\ndirection = \"out\"\naction = \"deny\"\n\
         unit = \"{unit}\"\n"
    ))
}

/// What is decided of a unit.
fn explained_of_unit(policy_file: &Path, unit: &str) -> Output {
    let args = ["explain", "out", "tcp", "192.0.2.1:1", "--unit", unit];
    policy(&args, policy_file)
}

#[test]
fn unit_without_a_type_is_a_service_wherever_one_is_given() {
    for (rule, unit, is_denied) in [
        ("app.service", "app", true),
        ("app", "app.service", true),
        ("app", "app", true),
        ("worker@", "worker@1", true),
        ("worker@1", "worker@1.service", true),
        ("ap*.service", "app", true),
        ("org.example.App", "org.example.App.service", true),
        ("app", "app.socket", false),
        ("app.slice", "app", false),
    ] {
        let file = denying_unit(rule);
        let output = explained_of_unit(file.path(), unit);
        let said = text(&output.stdout);
        assert_eq!(
            said.contains("violation"),
            is_denied,
            "{rule} {unit}: {said}"
        );
        let case = |unit: &str| {
            let expected = if is_denied { "deny" } else { "allow" };
            written(&format!(
                "[[case]]\nname = \"c\"\ndirection = \"out\"\npeer = \"192.0.2.1\"\nport = 1\n\
                 unit = \"{unit}\"\nexpect = \"{expected}\"\n"
            ))
        };
        let cases = case(unit);
        let args = ["test", "--cases", cases.path().to_str().unwrap()];
        let output = policy(&args, file.path());
        assert_eq!(output.status.code(), Some(0), "{rule} {unit}: {output:?}");
    }
}

#[test]
fn what_is_no_unit_is_refused_wherever_one_is_given() {
    let known = denying_unit("app");
    for wrong in [
        "app*",
        "backup.timer",
        "multi-user.target",
        "/system.slice/app.service",
        "a b",
        "",
    ] {
        let words = "is not a unit name: write the unit that the processes run in";
        let output = explained_of_unit(known.path(), wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(text(&output.stderr).contains(words), "{wrong}: {output:?}");
        let (code, said) = check(denying_unit(wrong).path());
        assert_eq!(code, Some(5), "{wrong}");
        assert!(said.contains("is not a unit name"), "{wrong}: {said}");
        for command in [&["watch", "--duration", "1s"][..], &["audit"]] {
            let output = Command::new(EXE)
                .args(command)
                .args(["--unit", wrong])
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(2), "{wrong}");
            assert!(text(&output.stderr).contains(words), "{wrong}: {output:?}");
        }
    }
}

#[test]
fn cgroups_are_taken_as_they_are_meant() {
    for cgroup in [
        "/h-policy/app",
        "/h-policy/app/below",
        "/sys/fs/cgroup/h-policy/app",
        "/sys/fs/cgroup/unified/h-policy/app/",
        "//h-policy/x/../app",
    ] {
        let args = ["out", "tcp", "192.0.2.1:1", "--cgroup", cgroup];
        assert_eq!(decided_by("cgroup-spelling", &args), "app", "{cgroup}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (code, said) = check(&given("cgroup-spelling"));
    assert_eq!(code, Some(0));
    // Without a hierarchy nobody can tell.
    if mounts.contains(" / /sys/fs/cgroup ") && mounts.contains(" - cgroup2 ") {
        let missing = said.matches("on this host now").count();
        assert_eq!(missing, 3, "{said}");
    }
}

#[test]
fn policy_is_toml_1_0_and_the_place_says_how_to_write_it() {
    let (code, said) = check(&given("unit-escape"));
    assert_eq!(code, Some(5));
    assert!(
        said.contains("10:20: the escape `\\x` is TOML 1.1, and this file is TOML 1.0\n")
            && said.contains("in single quotes")
            && !said.contains("no unit"),
        "{said}"
    );
    let file = written(
        "version = 1\n[[rule]]\nname = \"r\"\ndirection = \"out\"\naction = \"deny\"\n\
         unit = 'dev-disk-by\\x2duuid.swap'\n",
    );
    assert_eq!(check(file.path()).0, Some(0));
    let cases = written(
        "[[case]]\nname = \"a\\x2db\"\ndirection = \"in\"\npeer = \"1.2.3.4\"\nport = 22\n\
         expect = \"allow\"\n",
    );
    let path = cases.path().to_str().unwrap();
    let output = policy(&["test", "--cases", path], file.path());
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains(":2: the escape `\\x` is TOML 1.1"), "{said}");
}

#[test]
fn time_beyond_all_clocks_never_comes() {
    let path = given("until-9999");
    let (code, said) = check(&path);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("expired"), "{said}");
    assert_eq!(
        decided_by("until-9999", &["out", "tcp", "192.0.2.1:1"]),
        "r"
    );
    let output = policy(&["export", "nft"], &path);
    let ruleset = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!ruleset.contains("meta time"), "{ruleset}");
}

#[test]
fn time_whose_zone_has_another_offset_is_refused() {
    let file = written(
        "version = 1\n[[rule]]\nname = \"r\"\ndirection = \"out\"\naction = \"deny\"\n\
         until = \"2027-01-31T00:00:00+01:00[UTC]\"\n",
    );
    let (code, said) = check(file.path());
    assert_eq!(code, Some(5));
    assert!(said.contains("the offset is not that of UTC"), "{said}");
}

#[test]
fn services_have_no_case_and_the_policys_own_come_first() {
    let name = "service-case";
    assert_eq!(decided_by(name, &["in", "tcp", "192.0.2.1:2222"]), "x");
    assert_eq!(
        decided_by(name, &["in", "tcp", "192.0.2.1:22"]),
        "the inbound default: deny"
    );
    let file = written("version = 1\n[services]\nSSH = [\"2222/tcp\"]\nssh = [\"22/tcp\"]\n");
    let (code, said) = check(file.path());
    assert_eq!(code, Some(5));
    assert!(
        said.contains("the names of services have no case"),
        "{said}"
    );
    let cases = written(
        "[[case]]\nname = \"own\"\ndirection = \"in\"\npeer = \"192.0.2.1\"\nport = \"Ssh\"\n\
         expect = \"allow\"\nrule = \"x\"\n",
    );
    let path = cases.path().to_str().unwrap();
    let output = policy(&["test", "--cases", path], &given(name));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    for service in ["SSH", "ssh"] {
        let output = Command::new(EXE)
            .args(["service", service])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{service}");
        assert!(text(&output.stdout).contains("22"), "{service}");
    }
}

#[test]
fn rule_cannot_have_the_name_of_the_default() {
    let (code, said) = check(&given("rule-named-default"));
    assert_eq!(code, Some(5));
    assert!(said.contains("a rule cannot be named `default`"), "{said}");
    let cases = given("rule-named-default.test");
    let output = policy(
        &["test", "--cases", cases.to_str().unwrap()],
        &given("rule-named-default"),
    );
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn number_in_quotes_is_a_name_and_a_number_without_is_a_uid() {
    let (code, said) = check(&given("numeric-user"));
    // The users of that policy are not those of this host.
    assert_eq!(code, Some(5));
    for message in [
        "unknown user `1000`",
        "in quotes it is a name: `user = 1000` is the uid",
        "unknown user `007`",
        "unknown user `bob@example.org`",
        "unknown user `k\u{fc}che`",
        "unknown user `dom\\\\bob`",
    ] {
        assert!(said.contains(message), "{message}: {said}");
    }
    let by_uid = written(
        "version = 1\n[default]\noutbound = { action = \"deny\" }\n[[rule]]\nname = \"num\"\n\
         direction = \"out\"\nuser = 1000\naction = \"allow\"\n",
    );
    for (user, expected) in [
        ("1000", Ok("num")),
        ("+1000", Ok("num")),
        ("+1001", Ok("the outbound default")),
        ("01000", Err("without leading zeros")),
        ("4294967295", Err("from 0 to 4294967294")),
    ] {
        let args = ["explain", "out", "tcp", "192.0.2.1:1", "--user", user];
        let output = policy(&args, by_uid.path());
        match expected {
            Ok(by) => assert!(
                text(&output.stdout).contains(&format!("decided by   {by}")),
                "{user}"
            ),
            Err(message) => {
                assert_eq!(output.status.code(), Some(2), "{user}");
                assert!(text(&output.stderr).contains(message), "{user}");
            }
        }
    }
}

#[test]
fn policy_may_come_out_of_a_pipe() {
    for path in ["-", "/dev/stdin"] {
        let mut child = Command::new(EXE)
            .args(["policy", "check", "--policy", path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for part in ["version", " = 1\n"] {
            // What comes late is waited for.
            thread::sleep(Duration::from_millis(50));
            stdin.write_all(part.as_bytes()).unwrap();
        }
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert_eq!(text(&output.stdout), format!("{path}: ok, 0 rules\n"));
        assert_eq!(output.status.code(), Some(0));
    }
}

/// What the program says, given this on its standard input.
fn given_on_stdin(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(EXE)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that refuses its arguments does not read.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[test]
fn every_file_of_a_policy_may_be_the_standard_input_but_not_two_of_them() {
    let rule = "[[rule]]\nname = \"r\"\ndirection = \"out\"\nport = 80\naction = \"deny\"\n";
    let deny = format!("version = 1\n{rule}");
    let file = written(&deny);
    let file = file.path().to_str().unwrap();
    let case = "[[case]]\nname = \"c\"\ndirection = \"out\"\npeer = \"192.0.2.1\"\nport = 80\n\
        expect = \"deny\"\nrule = \"r\"\n";
    let cases = written(case);
    let cases = cases.path().to_str().unwrap();
    for stdin in ["-", "/dev/stdin", "/proc/self/fd/0"] {
        for (args, input, answer) in [
            (
                &["test", "--policy", file, "--cases", stdin][..],
                case,
                ": 1 of 1 as expected",
            ),
            (
                &["test", "--policy", stdin, "--cases", cases],
                &*deny,
                ": 1 of 1 as expected",
            ),
            (&["diff", file, stdin], &*deny, "alike"),
            (&["diff", stdin, file], &*deny, "alike"),
            (
                &["export", "nft", "--policy", stdin],
                &*deny,
                "tcp dport 80",
            ),
            (
                &["explain", "out", "tcp", "192.0.2.1:80", "--policy", stdin],
                &*deny,
                "r (",
            ),
        ] {
            let output = given_on_stdin(&[&["policy"], args].concat(), input);
            assert!(
                text(&output.stdout).contains(answer),
                "{args:?}: {output:?}"
            );
        }
        for other in ["-", "/dev/stdin"] {
            for args in [
                ["diff", stdin, other, "--json"],
                ["test", "--policy", stdin, &format!("--cases={other}")],
                ["test", "--policy", stdin, &format!("--replay={other}")],
            ] {
                let output = given_on_stdin(&[&["policy"], &args[..]].concat(), &deny);
                let said = text(&output.stderr);
                assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
                assert!(said.contains("can be read once only"), "{args:?}: {said}");
                assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
            }
        }
    }
}

#[test]
fn cases_that_are_no_file_are_refused_in_one_line() {
    let file = written("version = 1\n");
    let dir = tempfile::tempdir().unwrap();
    let binary = written("\0");
    std::fs::write(binary.path(), b"\xff").unwrap();
    for (cases, said) in [
        (dir.path().to_str().unwrap(), "is a directory"),
        ("/no/such/cases", "no such file (name one with --cases)"),
        ("/dev/zero", "is neither a file nor a pipe"),
        (binary.path().to_str().unwrap(), "is not text"),
    ] {
        let output = policy(&["test", "--cases", cases], file.path());
        assert_eq!(output.status.code(), Some(2), "{cases}");
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains(said) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
}

#[test]
fn pipe_cannot_be_followed() {
    for path in ["-", "/dev/stdin"] {
        let output = Command::new(EXE)
            .args(["apply", "--follow", path])
            .stdin(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(
            text(&output.stderr),
            format!(
                "port-monitor: {path}: --follow needs a file: what comes out of a pipe can be \
                 read once only\n"
            )
        );
    }
}

#[test]
fn days_are_durations_and_the_message_names_what_is_wrong() {
    for (args, said) in [
        (
            &["policy", "learn", "--for", "60"][..],
            "`60` has no unit: write 60s",
        ),
        (&["audit", "--unused", "2mo"], "counts in months or years"),
        (&["apply", "--confirm", "-5s"], "is negative"),
        (&["--duration", "0d"], "is no time at all"),
        (
            &["policy", "learn", "--for", "100000000d"],
            "is longer than a hundred years",
        ),
        (
            &["--remote", "fe80::/10%lo"],
            "names an interface, and rules do not ask for one",
        ),
    ] {
        let last = args.last().unwrap();
        let flag = args.get(args.len() - 2).unwrap();
        let joined = format!("{flag}={last}");
        let before = args.get(..args.len() - 2).unwrap();
        let output = Command::new(EXE).args(before).arg(joined).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            text(&output.stderr).contains(said),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    let file =
        written("version = 1\n[apply]\nconfirm = \"1d 2h\"\non_daemon_exit = \"open-after-1d\"\n");
    let (code, said) = check(file.path());
    assert_eq!(code, Some(0), "{said}");
}
