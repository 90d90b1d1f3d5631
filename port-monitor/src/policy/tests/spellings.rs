//! Rules that name the same thing by different spellings: in the kernel's tables it is
//! one key, and each rule must still match there.

use std::{collections::BTreeMap, fmt::Write as _, io, path::Path};

use port_monitor_common::{event::FileId, mask::Mask, policy::MAX_RULES};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::super::{
    Diagnostic, Environment, Policy, Source,
    tables::lower::{Lowered, Places},
};
use crate::host::units::Units;

/// Policies tried, each with every owner there is.
const POLICIES: usize = 300;

/// Two of these are the same program, and one is not there.
const EXES: [(&str, Option<u64>); 5] = [
    ("/usr/bin/perl", Some(1)),
    ("/bin/perl", Some(1)),
    ("/usr/bin/../bin/perl5", Some(1)),
    ("/usr/bin/python", Some(2)),
    ("/opt/gone", None),
];
/// Each with the cgroups it holds.
const GROUPS: [(&str, &str, &[&str]); 15] = [
    ("unit", "ssh.service", &["/system.slice/ssh.service"]),
    ("unit", "sshd.service", &["/system.slice/ssh.service"]),
    (
        "unit",
        "worker@1.service",
        &["/system.slice/worker@1.service"],
    ),
    (
        "unit",
        "worker@.service",
        &[
            "/system.slice/worker@1.service",
            "/system.slice/worker@2.service",
        ],
    ),
    (
        "unit",
        "worker@*.service",
        &[
            "/system.slice/worker@1.service",
            "/system.slice/worker@2.service",
        ],
    ),
    (
        "unit",
        "system.slice",
        &[
            "/system.slice",
            "/system.slice/ssh.service",
            "/system.slice/worker@1.service",
            "/system.slice/worker@2.service",
        ],
    ),
    ("unit", "user-1000.slice", &["/user.slice/user-1000.slice"]),
    ("unit", "user-.slice", &["/user.slice/user-1000.slice"]),
    ("unit", "gone.service", &[]),
    (
        "cgroup",
        "/system.slice/ssh.service",
        &["/system.slice/ssh.service"],
    ),
    (
        "cgroup",
        "/system.slice//ssh.service/",
        &["/system.slice/ssh.service"],
    ),
    (
        "cgroup",
        "/sys/fs/cgroup/system.slice/ssh.service",
        &["/system.slice/ssh.service"],
    ),
    (
        "cgroup",
        "/user.slice/../system.slice/ssh.service",
        &["/system.slice/ssh.service"],
    ),
    (
        "cgroup",
        "/user.slice",
        &["/user.slice", "/user.slice/user-1000.slice"],
    ),
    ("cgroup", "/gone", &[]),
];
const CGROUPS: [&str; 7] = [
    "",
    "/system.slice",
    "/system.slice/ssh.service",
    "/system.slice/worker@1.service",
    "/system.slice/worker@2.service",
    "/user.slice",
    "/user.slice/user-1000.slice",
];
/// As a rule spells them, and their uids.
const USERS: [(&str, u32); 5] = [
    ("\"app\"", 1000),
    ("1000", 1000),
    ("\"alias-of-app\"", 1000),
    ("\"1000\"", 5000),
    ("0", 0),
];

struct Host;

impl Environment for Host {
    fn service_ports(&self, _service: &str) -> Vec<u16> {
        Vec::new()
    }

    fn nearest_service(&self, _service: &str) -> Option<String> {
        None
    }

    fn uid(&self, user: &str) -> Option<u32> {
        let quoted = format!("\"{user}\"");
        let known = USERS.iter().find(|(name, _)| *name == quoted);
        known.map(|&(_, uid)| uid)
    }

    fn users(&self) -> Vec<String> {
        Vec::new()
    }

    fn units(&self) -> Units {
        Units::default()
            .with_alias("sshd.service", "ssh.service")
            .with_cgroups(CGROUPS.map(str::to_owned).into(), "/sys/fs/cgroup")
    }

    fn executable(&self, path: &Path) -> io::Result<FileId> {
        let (device, inode) = Places::executable(self, path)?;
        Ok(FileId { device, inode })
    }

    fn now_ns(&self) -> i128 {
        0
    }
}

impl Places for Host {
    fn now_ns(&self) -> i64 {
        0
    }

    fn cgroups(&self) -> Vec<(String, u64)> {
        (1..)
            .zip(CGROUPS)
            .map(|(id, path)| (path.to_owned(), id))
            .collect()
    }

    fn executable(&self, path: &Path) -> Result<(u32, u64), io::Error> {
        let known = EXES.iter().find(|(exe, _)| Path::new(exe) == path);
        let inode = known.and_then(|(_, inode)| *inode);
        inode
            .map(|inode| (7, inode))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn boot_ns(&self, wall_ns: i64) -> u64 {
        wall_ns.unsigned_abs()
    }
}

/// What a rule asks of the owner, by place in the lists above.
#[derive(Default)]
struct Asked {
    exes: Vec<usize>,
    groups: Vec<usize>,
    users: Vec<usize>,
}

/// Somebody: a file of the first list, a cgroup, a uid.
#[derive(Clone, Copy, Debug)]
struct Owner {
    inode: u64,
    cgroup: &'static str,
    uid: u32,
}

impl Asked {
    fn random(random: &mut TestRng) -> Self {
        let mut some = |of: usize| {
            if random.next_u32().is_multiple_of(2) {
                return Vec::new();
            }
            let count = 1 + random.next_u32() % 2;
            let one = |_| random.next_u32() as usize % of;
            (0..count).map(one).collect()
        };
        Self {
            exes: some(EXES.len()),
            groups: some(GROUPS.len()),
            users: some(USERS.len()),
        }
    }

    fn write(&self, text: &mut String) {
        let list = |key: &str, values: Vec<String>| match values.as_slice() {
            [] => String::new(),
            values => format!("{key} = [{}]\n", values.join(", ")),
        };
        let quoted = |text: &str| format!("'{text}'");
        let groups = |kind: &str| {
            let groups = self.groups.iter().map(|&at| GROUPS[at]);
            let named = groups.filter(|(of, ..)| *of == kind);
            list(kind, named.map(|(_, name, _)| quoted(name)).collect())
        };
        text.push_str(&list(
            "exe",
            self.exes.iter().map(|&at| quoted(EXES[at].0)).collect(),
        ));
        text.push_str(&list(
            "user",
            self.users
                .iter()
                .map(|&at| USERS[at].0.to_owned())
                .collect(),
        ));
        text.push_str(&groups("unit"));
        text.push_str(&groups("cgroup"));
    }

    /// The meaning of the rule, without any table.
    fn accepts(&self, owner: Owner) -> bool {
        let in_some = |kind: &str| {
            let mut named = self.groups.iter().map(|&at| GROUPS[at]);
            let mut of_kind = named.clone().filter(|(of, ..)| *of == kind);
            !named.any(|(of, ..)| of == kind)
                || of_kind.any(|(.., holds)| holds.contains(&owner.cgroup))
        };
        let is_exe = |&at: &usize| EXES[at].1 == Some(owner.inode);
        let is_user = |&at: &usize| USERS[at].1 == owner.uid;
        (self.exes.is_empty() || self.exes.iter().any(is_exe))
            && (self.users.is_empty() || self.users.iter().any(is_user))
            && in_some("unit")
            && in_some("cgroup")
    }
}

/// The first rule that matches, as the kernel's programs find it.
fn first(lowered: &Lowered, owner: Owner) -> Option<usize> {
    let mask = |number: u32| lowered.masks[number as usize];
    let mut cgroup = owner.cgroup;
    let group = loop {
        let id = CGROUPS.iter().position(|path| *path == cgroup).unwrap() as u64 + 1;
        if let Some(&(_, group)) = lowered.groups.iter().find(|(of, _)| *of == id) {
            break group;
        }
        match cgroup.rsplit_once('/') {
            Some((parent, _)) => cgroup = parent,
            None => break lowered.header.other_group,
        }
    };
    // A key that is there twice would be there once in the kernel.
    let exes: BTreeMap<(u32, u64), u32> = lowered
        .exes
        .iter()
        .map(|&(device, inode, exe)| ((device, inode), exe))
        .collect();
    assert_eq!(exes.len(), lowered.exes.len());
    let exe = exes.get(&(7, owner.inode));
    let user = lowered.users.iter().find(|(uid, _)| *uid == owner.uid);
    let mut matching: Mask = mask(lowered.header.every);
    for number in [
        group,
        exe.copied().unwrap_or(lowered.header.other_exe),
        user.map_or(lowered.header.other_user, |(_, user)| *user),
    ] {
        matching.intersect(&mask(number));
    }
    (0..MAX_RULES).find(|&rule| {
        let mut one = Mask::NONE;
        one.insert(rule);
        one.intersect(&matching);
        one != Mask::NONE
    })
}

fn parse(text: &str) -> (Policy, Vec<Diagnostic>) {
    let source = Source::new("policy.toml".to_owned(), text.to_owned());
    match Policy::parse(source, &Host) {
        Ok(policy) => policy,
        Err(invalid) => panic!("{invalid}"),
    }
}

#[test]
fn one_thing_by_several_spellings_keeps_every_rule() {
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut decided = 0;
    for _ in 0..POLICIES {
        let rules: Vec<Asked> = (0..=random.next_u32() % 6)
            .map(|_| Asked::random(&mut random))
            .collect();
        let mut text = "version = 1\n".to_owned();
        for (number, rule) in rules.iter().enumerate() {
            // A port of its own keeps a rule from being covered; the tables of owners
            // know nothing of ports.
            let port = number + 1;
            let _ = writeln!(
                text,
                "[[rule]]\nname = \"r{number}\"\ndirection = \"out\"\naction = \"deny\"\n\
                 port = {port}"
            );
            rule.write(&mut text);
        }
        let lowered = parse(&text).0.lower(&Host).unwrap();
        for inode in [1, 2, 3] {
            for cgroup in CGROUPS {
                for uid in [0, 1000, 5000, 7] {
                    let owner = Owner { inode, cgroup, uid };
                    let expected = rules.iter().position(|rule| rule.accepts(owner));
                    assert_eq!(first(&lowered, owner), expected, "{owner:?}\n{text}");
                    decided += usize::from(expected.is_some());
                }
            }
        }
    }
    assert!(decided > POLICIES, "{decided}");
}

#[test]
fn what_is_not_there_is_told_and_keeps_nothing_else_from_being_applied() {
    let text = "version = 1\n[[rule]]\nname = \"a\"\ndirection = \"out\"\naction = \"deny\"\n\
                exe = [\"/opt/gone\", \"/bin/perl\"]\ncgroup = \"/gone\"\n[[rule]]\nname = \
                \"b\"\ndirection = \"out\"\naction = \"deny\"\nport = 1\n";
    let (policy, warnings) = parse(text);
    let said: Vec<String> = warnings
        .iter()
        .map(|warning| warning.problem.to_string())
        .collect();
    assert_eq!(
        said,
        [
            "executable `/opt/gone`: entity not found: the rule matches nothing until it is there",
            "no cgroup `/gone` on this host now",
        ]
    );
    let lowered = policy.lower(&Host).unwrap();
    assert_eq!(lowered.exes.len(), 1);
    assert_eq!(
        lowered.missing,
        ["cgroup /gone", "executable /opt/gone (entity not found)"]
    );
}

#[test]
fn odd_spellings_of_a_cgroup_are_told_once_each() {
    for (written, said) in [
        ("/system.slice", None),
        ("/", None),
        (
            "/sys/fs/cgroup/system.slice",
            Some("`/sys/fs/cgroup/system.slice` is taken for the cgroup `/system.slice`"),
        ),
        (
            "/sys/fs/cgroup/unified/system.slice",
            Some("`/sys/fs/cgroup/unified/system.slice` is taken for the cgroup `/system.slice`"),
        ),
        (
            "/system.slice/",
            Some("`/system.slice/` is taken for the cgroup `/system.slice`"),
        ),
        (
            "//system.slice",
            Some("`//system.slice` is taken for the cgroup `/system.slice`"),
        ),
        (
            "/user.slice/../system.slice",
            Some("`/user.slice/../system.slice` is taken for the cgroup `/system.slice`"),
        ),
        (
            "/sys/fs/cgroup/gone/",
            Some("no cgroup `/gone` on this host now"),
        ),
    ] {
        let text = format!(
            "version = 1\n[[rule]]\nname = \"a\"\ndirection = \"out\"\naction = \"deny\"\n\
             cgroup = \"{written}\"\n"
        );
        let (_, warnings) = parse(&text);
        let told: Vec<String> = warnings
            .iter()
            .map(|warning| warning.problem.to_string())
            .collect();
        let expected: Vec<&str> = said.into_iter().collect();
        assert_eq!(told, expected, "{written}");
    }
}

#[test]
fn files_are_told_apart_by_what_the_kernel_knows_of_them() {
    let text = "version = 1\n[[rule]]\nname = \"web\"\ndirection = \"out\"\naction = \"deny\"\n\
                exe = \"/usr/bin/perl\"\nport = 80\n[[rule]]\nname = \"mail\"\ndirection = \
                \"out\"\naction = \"deny\"\nexe = \"/bin/perl\"\nport = 25\n";
    let lowered = parse(text).0.lower(&Host).unwrap();
    let [(7, 1, mask)] = lowered.exes[..] else {
        panic!("{:?}", lowered.exes);
    };
    let mut both = Mask::NONE;
    both.insert(0);
    both.insert(1);
    assert_eq!(lowered.masks[mask as usize], both);
}
