//! The systemd unit in a cgroup path. Pure.

/// What systemd runs processes in. Slices only group units.
const SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// The innermost unit of a cgroup path: `ssh.service` of
/// `/system.slice/ssh.service`.
pub(crate) fn unit(cgroup: &str) -> Option<&str> {
    cgroup.rsplit('/').find_map(unit_name)
}

/// The unit a cgroup directory of this name belongs to.
pub(crate) fn unit_name(directory: &str) -> Option<&str> {
    // systemd puts `_` before names that the kernel's own files could clash with.
    let name = directory.strip_prefix('_').unwrap_or(directory);
    SUFFIXES
        .iter()
        .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
        .then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::host::unit::*;

    #[test]
    fn unit_is_the_innermost_service_or_scope() {
        let cases = [
            ("/system.slice/ssh.service", Some("ssh.service")),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                Some("getty@tty1.service"),
            ),
            (
                "/user.slice/user-1000.slice/session-3.scope",
                Some("session-3.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope",
                Some("app-x.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/init.scope",
                Some("init.scope"),
            ),
            ("/system.slice/ssh.service/payload", Some("ssh.service")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            (
                "/system.slice/docker-0a.scope/system.slice/nginx.service",
                Some("nginx.service"),
            ),
            ("/system.slice", None),
            ("/system.slice/.service", None),
            ("/", None),
            ("", None),
        ];
        for (path, expected) in cases {
            assert_eq!(unit(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_gives_a_component_of_it_or_none(path in "[a-z_./]{0,40}|\\PC{0,40}") {
            if let Some(unit) = unit(&path) {
                prop_assert!(path.contains(unit) && !unit.contains('/'));
            }
        }
    }
}
