//! The parts of a unit's name, and the patterns it matches. Pure.

use std::borrow::Cow;

/// The unit of the root cgroup.
pub const ROOT_SLICE: &str = "-.slice";

/// The types of units that processes run in, or lie in.
const TYPES: [&str; 6] = ["service", "scope", "slice", "socket", "mount", "swap"];
/// Those that none do.
const OTHER_TYPES: [&str; 5] = ["target", "timer", "path", "device", "automount"];

/// Bytes of a unit's name at most (`UNIT_NAME_MAX` of systemd, which counts a NUL).
const LONGEST: usize = 255;

/// The whole name of the unit that people write: what has no type is a service, as for
/// `systemctl`. `None` for what names no unit that processes run in, and for a pattern
/// without a type, which may be meant for all of them.
pub fn completed(written: &str) -> Option<Cow<'_, str>> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@*?".contains(&byte);
    if written.is_empty() || written.len() > LONGEST || !written.bytes().all(fits) {
        return None;
    }
    match written.rsplit_once('.') {
        Some((stem, kind)) if TYPES.contains(&kind) => {
            (!stem.is_empty()).then_some(Cow::Borrowed(written))
        }
        Some((_, kind)) if OTHER_TYPES.contains(&kind) => None,
        _ if written.contains(['*', '?']) => None,
        _ => {
            let whole = format!("{written}.service");
            (whole.len() <= LONGEST).then_some(Cow::Owned(whole))
        }
    }
}

/// The names that a written name stands for: those a `*` or `?` in it matches, all
/// instances of the template `worker@.service`, all slices of `user-.slice`, as
/// systemd's own `user-.slice.d` are for all of them. `None` for the name of one unit.
pub fn pattern(unit: &str) -> Option<String> {
    if unit.contains(['*', '?']) {
        return Some(unit.to_owned());
    }
    if is_template(unit) {
        return Some(of_template(unit, "*"));
    }
    // No slice has such a name, but the root.
    let prefix = unit.strip_suffix("-.slice")?;
    (!prefix.is_empty()).then(|| format!("{prefix}-*.slice"))
}

/// Whether the pattern matches the whole name: `*` any text, `?` one character. No name
/// has either of these, so a pattern in the place of the name is matched where all that it
/// matches is.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let is_one = |wanted: char, read: Option<&char>| {
        read == Some(&wanted) || wanted == '?' && read != Some(&'*')
    };
    let (mut at, mut read) = (0, 0);
    // Behind the last star, and where what it matches ends so far.
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, read));
                at += 1;
            }
            Some(&wanted) if is_one(wanted, name.get(read)) => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((behind, end)) = star else {
                    return false;
                };
                star = Some((behind, end + 1));
                (at, read) = (behind, end + 1);
            }
        }
    }
    pattern.iter().skip(at).all(|rest| *rest == '*')
}

/// The name of the unit whose cgroup directory this is: systemd puts `_` before a name
/// that the kernel's own files could clash with.
pub fn unescaped(directory: &str) -> &str {
    directory.strip_prefix('_').unwrap_or(directory)
}

/// The slices a slice lies in: `a.slice` and the root for `a-b.slice`; none for what is
/// no slice.
pub fn slices_around(unit: &str) -> Vec<String> {
    let Some(stem) = unit.strip_suffix(".slice").filter(|stem| *stem != "-") else {
        return Vec::new();
    };
    let parents = stem.rmatch_indices('-');
    let parents = parents.filter_map(|(at, _)| stem.get(..at));
    let parents = parents.map(|parent| format!("{parent}.slice"));
    parents.chain([ROOT_SLICE.to_owned()]).collect()
}

/// The pattern of the slices that lie in those of this name or pattern by theirs;
/// `None` for the root and for what is no slice.
pub fn slices_below(slice: &str) -> Option<String> {
    let stem = slice.strip_suffix(".slice").filter(|stem| *stem != "-")?;
    Some(format!("{stem}-*.slice"))
}

/// `service` of `ssh.service`.
pub(crate) fn kind(unit: &str) -> Option<&str> {
    let (stem, kind) = unit.rsplit_once('.')?;
    (!stem.is_empty()).then_some(kind)
}

/// `tty1` of `getty@tty1.service`; `None` for a template and for what is no instance.
pub(crate) fn instance(unit: &str) -> Option<&str> {
    let (_, rest) = unit.split_once('@')?;
    let (instance, _) = rest.rsplit_once('.')?;
    (!instance.is_empty()).then_some(instance)
}

/// `getty@.service`.
pub(crate) fn is_template(unit: &str) -> bool {
    let parts = unit.split_once('@').zip(kind(unit));
    parts.is_some_and(|((_, rest), kind)| rest.strip_prefix('.') == Some(kind))
}

/// `getty@.service` of `getty@tty1.service`.
pub(crate) fn template(unit: &str) -> Option<String> {
    instance(unit)?;
    let (stem, _) = unit.split_once('@')?;
    Some(format!("{stem}@.{}", kind(unit)?))
}

/// `getty@tty1.service` of `getty@.service` and `tty1`; other names stay as they are.
pub(crate) fn of_template(template: &str, instance: &str) -> String {
    match template.split_once("@.") {
        Some((stem, kind)) if is_template(template) => format!("{stem}@{instance}.{kind}"),
        _ => template.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::host::units::name::*;

    #[test]
    fn name_without_a_type_is_a_services() {
        for (written, whole) in [
            ("sshd", Some("sshd.service")),
            ("sshd.service", Some("sshd.service")),
            ("user-1000.slice", Some("user-1000.slice")),
            ("-.slice", Some("-.slice")),
            ("session-3.scope", Some("session-3.scope")),
            ("worker@1", Some("worker@1.service")),
            ("worker@", Some("worker@.service")),
            ("worker@a.b", Some("worker@a.b.service")),
            ("org.example.App", Some("org.example.App.service")),
            (
                r"dev-disk-by\x2duuid.swap",
                Some(r"dev-disk-by\x2duuid.swap"),
            ),
            ("worker@*.service", Some("worker@*.service")),
            ("*.service", Some("*.service")),
            ("ssh*", None),
            ("worker@?", None),
            ("*", None),
            ("backup.timer", None),
            ("multi-user.target", None),
            (".service", None),
            ("", None),
            ("/system.slice/ssh.service", None),
            ("a b", None),
            ("k\u{fc}che", None),
        ] {
            assert_eq!(completed(written).as_deref(), whole, "{written}");
        }
        let long = "a".repeat(LONGEST - ".service".len());
        assert_eq!(completed(&long), Some(format!("{long}.service").into()));
        assert_eq!(completed(&format!("{long}a")), None);
    }

    #[test]
    fn templates_and_slice_prefixes_are_patterns() {
        for (unit, expected) in [
            ("worker@.service", Some("worker@*.service")),
            ("worker@*.service", Some("worker@*.service")),
            ("worker@1.service", None),
            ("user-.slice", Some("user-*.slice")),
            ("user-1000.slice", None),
            ("-.slice", None),
            ("odd-.service", None),
            ("ssh.service", None),
            ("a@b@.service", None),
        ] {
            assert_eq!(pattern(unit).as_deref(), expected, "{unit}");
        }
    }

    #[test]
    fn stars_match_any_text_and_question_marks_one_character() {
        for (pattern, name, expected) in [
            ("worker@*.service", "worker@1.service", true),
            ("worker@*.service", "worker@.service", true),
            ("worker@*.service", "worker@a.b.service", true),
            ("worker@*.service", "worker.service", false),
            ("worker@*.service", "xworker@1.service", false),
            ("worker@*.service", "worker@1.servicex", false),
            ("worker@?.service", "worker@1.service", true),
            ("worker@?.service", "worker@10.service", false),
            ("*", "", true),
            ("?", "", false),
            ("worker@*.service", "worker@?.service", true),
            ("worker@?.service", "worker@?.service", true),
            ("worker@?.service", "worker@*.service", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            (r"dev-by\x2d*.swap", r"dev-by\x2duuid.swap", true),
            (r"dev-by\x2d*.swap", "dev-by-uuid.swap", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_trying_everything(
            pattern in "[ab*?]{0,8}",
            name in "[ab]{0,8}",
        ) {
            fn naive(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|at| naive(rest, &name[at..])),
                    Some((b'?', rest)) => !name.is_empty() && naive(rest, &name[1..]),
                    Some((byte, rest)) => {
                        name.first() == Some(byte) && naive(rest, &name[1..])
                    }
                }
            }
            prop_assert_eq!(
                matches(&pattern, &name),
                naive(pattern.as_bytes(), name.as_bytes())
            );
        }
    }
}
