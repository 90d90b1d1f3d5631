//! The container in a cgroup path: no daemon is asked. Pure.

use crate::events::record::Container;

/// Digits of a container's id: SHA-256 in hexadecimal.
const ID_DIGITS: usize = 64;
/// Letters and digits of what `BuildKit` runs.
const BUILD_DIGITS: usize = 25;

/// What runtimes write before the id in the name of a container's cgroup.
const PREFIXES: [(&str, &str); 9] = [
    ("docker", "docker"),
    ("libpod", "podman"),
    ("libpod-payload", "podman"),
    ("cri-containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("crio", "cri-o"),
    ("kata", "kata"),
    ("kata_overhead", "kata"),
    ("balena", "balena"),
];

/// Directories right above those of containers, which have a bare id.
const PARENTS: [(&str, &str); 6] = [
    ("docker", "docker"),
    ("default", "containerd"),
    ("k8s.io", "containerd"),
    ("moby", "docker"),
    ("kata_overhead", "kata"),
    ("balena", "balena"),
];

/// The innermost container of a cgroup path.
pub(crate) fn container(cgroup: &str) -> Option<Container> {
    let mut path = cgroup;
    while let Some((outer, directory)) = path.rsplit_once('/') {
        let found = named(directory)
            .or_else(|| bare(directory, outer))
            .map(|(id, runtime)| (id.to_owned(), runtime))
            .or_else(|| of_system(directory, outer));
        if let Some((id, runtime)) = found {
            return Some(Container {
                id,
                runtime,
                pod_uid: pod_uid(path),
            });
        }
        path = outer;
    }
    None
}

/// `docker-ID.scope`, `libpod-ID`, `kubepods-podUID.slice:cri-containerd:ID`, `kata_ID`.
fn named(directory: &str) -> Option<(&str, &'static str)> {
    let name = directory.strip_suffix(".scope").unwrap_or(directory);
    if let Some(id) = name.strip_prefix("kata_")
        && is_id(id)
    {
        return Some((id, "kata"));
    }
    let (prefix, id) = name.rsplit_once(['-', ':'])?;
    let prefix = prefix.rsplit(':').next()?;
    let (_, runtime) = PREFIXES.iter().find(|(known, _)| *known == prefix)?;
    if is_id(id) {
        return Some((id, *runtime));
    }
    (prefix == "docker" && is_build(id)).then_some((id, "buildkit"))
}

/// A bare id, which only its surroundings tell from any other directory:
/// `/docker/ID`, `/kubepods/burstable/podUID/ID`, `/ecs/TASK/ID`.
fn bare<'a>(directory: &'a str, outer: &str) -> Option<(&'a str, &'static str)> {
    let mut around = outer.rsplit('/');
    let (parent, above) = (around.next()?, around.next().unwrap_or_default());
    if above == "ecs" && is_task(parent) {
        let number = directory.strip_prefix(parent);
        let number = number.and_then(|rest| rest.strip_prefix('-'));
        let is_numbered = number.is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        return (is_id(directory) || is_numbered).then_some((directory, "ecs"));
    }
    if parent == "buildkit" && is_build(directory) {
        return Some((directory, "buildkit"));
    }
    let is_garden = parent == "garden" || above == "garden" && ["good", "bad"].contains(&parent);
    if is_garden && is_dashed(directory) {
        return Some((directory, "garden"));
    }
    if !is_id(directory) {
        return None;
    }
    if let Some((_, runtime)) = PARENTS.iter().find(|(known, _)| *known == parent) {
        return Some((directory, *runtime));
    }
    // Any runtime of Kubernetes; the path does not say which.
    pod_uid(outer)
        .is_some()
        .then_some((directory, "kubernetes"))
}

/// Containers that are like hosts and have names, and those of Nomad: `lxc.payload.NAME`,
/// `/lxc/NAME`, `machine-NAME.scope`, `systemd-nspawn@NAME.service`,
/// `/nomad.slice/share.slice/ALLOC.TASK.scope`.
fn of_system(directory: &str, outer: &str) -> Option<(String, &'static str)> {
    let (_, parent) = outer.rsplit_once('/').unwrap_or(("", outer));
    let is_lxc = ["lxc", "lxc.payload"].contains(&parent);
    let lxc = directory.strip_prefix("lxc.payload.");
    if let Some(name) = lxc.or_else(|| is_lxc.then_some(directory))
        && !name.is_empty()
    {
        return Some((name.to_owned(), "lxc"));
    }
    let machine = directory.strip_prefix("machine-");
    let machine = machine.and_then(|name| name.strip_suffix(".scope"));
    let nspawn = directory.strip_prefix("systemd-nspawn@");
    let nspawn = nspawn.and_then(|name| name.strip_suffix(".service"));
    if let Some(name) = machine.or(nspawn).filter(|name| !name.is_empty()) {
        let name = unescaped(name)?;
        // libvirt's machines: of its containers the name is behind two numbers.
        if name.starts_with("qemu-") {
            return None;
        }
        let libvirt = name
            .strip_prefix("lxc-")
            .and_then(|rest| rest.split_once('-'));
        return Some(match libvirt {
            Some((number, name)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                (name.to_owned(), "libvirt-lxc")
            }
            _ => (name, "systemd-nspawn"),
        });
    }
    let is_nomad = parent == "nomad" || outer.split('/').any(|name| name == "nomad.slice");
    let name = directory.strip_suffix(".scope").unwrap_or(directory);
    let (allocation, task) = name.split_once('.')?;
    let task = task.trim_matches('.');
    (is_nomad && is_uuid(allocation) && !task.is_empty())
        .then(|| (format!("{allocation}.{task}"), "nomad"))
}

/// Undoes systemd's `\x2d` for a dash, and so on; `None` where that is no text.
fn unescaped(name: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .first_chunk::<3>()
            .filter(|code| byte == b'\\' && code[0] == b'x')
            .and_then(|code| u8::from_str_radix(str::from_utf8(&code[1..]).ok()?, 16).ok());
        plain.push(code.unwrap_or(byte));
        rest = tail.get(code.map_or(0, |_| 3)..).unwrap_or_default();
    }
    String::from_utf8(plain).ok()
}

/// 32 digits, or those of a UUID.
fn is_task(text: &str) -> bool {
    is_uuid(text) || text.len() == 32 && is_lower_hex(text)
}

fn is_uuid(text: &str) -> bool {
    let mut lengths = text.split('-').map(str::len);
    lengths.by_ref().eq([8, 4, 4, 4, 12]) && is_lower_hex(&text.replace('-', ""))
}

/// A UUID, or one with a short end.
fn is_dashed(text: &str) -> bool {
    is_uuid(text)
        || text.split('-').map(str::len).eq([8, 4, 4, 4, 4]) && is_lower_hex(&text.replace('-', ""))
}

fn is_build(text: &str) -> bool {
    text.len() == BUILD_DIGITS
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'))
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && is_lower_hex(text)
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The pod's uid: of `podUID` or, where systemd's rules forbid the dashes,
/// `kubepods-burstable-podUID_WITH_UNDERSCORES.slice`.
fn pod_uid(cgroup: &str) -> Option<String> {
    cgroup.rsplit('/').find_map(|directory| {
        // A misconfigured runtime appends to the name: `….slice:crio:ID`.
        let name = directory.split(':').next()?;
        let name = name.strip_suffix(".slice").unwrap_or(name);
        let (before, uid) = name.rsplit_once("pod")?;
        let is_pod = before.is_empty() || before.starts_with("kube") && before.contains("kubepods");
        let uid = uid.replace('_', "-");
        // A static pod's uid is a hash without dashes.
        let digits = uid.replace('-', "");
        (is_pod && digits.len() == 32 && is_lower_hex(&digits)).then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::host::container::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "1f2e3d4c-5b6a-7980-1122-334455667788";

    fn assert_container(path: &str, runtime: &str, pod: Option<&str>) {
        let found = container(path).unwrap_or_else(|| panic!("no container in {path}"));
        assert_eq!((found.id.as_str(), found.runtime), (ID, runtime), "{path}");
        assert_eq!(found.pod_uid.as_deref(), pod, "{path}");
    }

    #[test]
    fn container_of_a_single_host_is_found() {
        let cases = [
            ("/system.slice/docker-ID.scope", "docker"),
            ("/docker/ID", "docker"),
            ("/docker/ID/init.scope", "docker"),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                "podman",
            ),
            ("/libpod_parent/libpod-ID", "podman"),
            ("/system.slice/web.service/libpod-payload-ID", "podman"),
            ("/system.slice/nerdctl-ID.scope", "containerd"),
        ];
        for (path, runtime) in cases {
            assert_container(&path.replace("ID", ID), runtime, None);
        }
    }

    #[test]
    fn container_of_a_pod_is_found_with_the_pods_uid() {
        let cases = [
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podP_O_D.slice/cri-containerd-ID.scope",
                "containerd",
            ),
            (
                "/kubepods.slice/kubepods-podP_O_D.slice/crio-ID.scope/container",
                "cri-o",
            ),
            (
                "/system.slice/containerd.service/kubepods-besteffort-podP_O_D.slice:cri-containerd:ID",
                "containerd",
            ),
            ("/kubepods/burstable/podP-O-D/ID", "kubernetes"),
            ("/docker/F/kubelet/kubepods/podP-O-D/ID", "kubernetes"),
        ];
        for (path, runtime) in cases {
            let path = path
                .replace("P_O_D", &POD.replace('-', "_"))
                .replace("P-O-D", POD)
                .replace("ID", ID)
                .replace("/F/", &format!("/{}/", "f".repeat(64)));
            assert_container(&path, runtime, Some(POD));
        }
    }

    #[test]
    fn container_of_a_task_or_a_build_is_found() {
        const TASK: &str = "9b1f0c3e5a7d4e2f8b6a1c2d3e4f5a6b";
        const BUILD: &str = "t6mzk1u2vq0x9y8w7r5s4a3bc";
        let cases = [
            // As /proc tells of version 1 too, where a bare path is the rule.
            (format!("/ecs/{TASK}/{ID}"), ID.to_owned(), "ecs"),
            (format!("/ecs/{POD}/{ID}"), ID.to_owned(), "ecs"),
            (
                format!("/ecs/{TASK}/{TASK}-2531612879"),
                format!("{TASK}-2531612879"),
                "ecs",
            ),
            (
                format!("/ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope"),
                ID.to_owned(),
                "docker",
            ),
            (format!("/kata_overhead/{ID}"), ID.to_owned(), "kata"),
            (format!("/vc/kata_{ID}"), ID.to_owned(), "kata"),
            (
                format!("/system.slice/kata-{ID}.scope"),
                ID.to_owned(),
                "kata",
            ),
            (
                format!("/system.slice:kata_overhead:{ID}"),
                ID.to_owned(),
                "kata",
            ),
            (
                format!("/docker/buildkit/{BUILD}"),
                BUILD.into(),
                "buildkit",
            ),
            (
                format!("/system.slice/docker-{BUILD}.scope"),
                BUILD.into(),
                "buildkit",
            ),
            (
                "/system.slice/garden.service/garden/4d2a8c71-1b2f-4d6e-6a3c-7f01".into(),
                "4d2a8c71-1b2f-4d6e-6a3c-7f01".into(),
                "garden",
            ),
            (format!("/garden/good/{POD}"), POD.into(), "garden"),
            (
                format!("/nomad.slice/share.slice/{POD}.redis.scope"),
                format!("{POD}.redis"),
                "nomad",
            ),
            (
                format!("/nomad/{POD}.redis"),
                format!("{POD}.redis"),
                "nomad",
            ),
            (format!("/default/{ID}"), ID.to_owned(), "containerd"),
        ];
        for (path, id, runtime) in cases {
            let found = container(&path).unwrap_or_else(|| panic!("no container in {path}"));
            assert_eq!((found.id, found.runtime), (id, runtime), "{path}");
            assert_eq!(found.pod_uid, None, "{path}");
        }
    }

    #[test]
    fn container_that_is_like_a_host_has_its_name() {
        let cases: Vec<(String, String, &str)> = vec![
            ("/lxc.payload.web1".into(), "web1".into(), "lxc"),
            (
                "/lxc.payload.web1/system.slice/nginx.service".into(),
                "web1".into(),
                "lxc",
            ),
            (
                "/lxc.payload.proj_web.1/init.scope".into(),
                "proj_web.1".into(),
                "lxc",
            ),
            ("/lxc.payload/web1".into(), "web1".into(), "lxc"),
            (
                "/lxc/101/ns/system.slice/cron.service".into(),
                "101".into(),
                "lxc",
            ),
            (format!("/lxc/101/ns/docker/{ID}"), ID.to_owned(), "docker"),
            (
                "/user.slice/user-1000.slice/user@1000.service/lxc.payload.u1".into(),
                "u1".into(),
                "lxc",
            ),
            (
                r"/machine.slice/machine-deb\x2dtest.scope/payload/init.scope".into(),
                "deb-test".into(),
                "systemd-nspawn",
            ),
            (
                "/machine.slice/systemd-nspawn@build.service/payload".into(),
                "build".into(),
                "systemd-nspawn",
            ),
            (
                r"/machine.slice/machine-lxc\x2d123\x2dguest.scope".into(),
                "guest".into(),
                "libvirt-lxc",
            ),
        ];
        for (path, id, runtime) in cases {
            let found = container(&path).unwrap_or_else(|| panic!("no container in {path}"));
            assert_eq!((found.id, found.runtime), (id, runtime), "{path}");
        }
    }

    #[test]
    fn pods_of_every_driver_have_their_uid() {
        let kata = format!("/kubepods/burstable/pod{POD}/kata_{ID}");
        assert_container(&kata, "kata", Some(POD));
        let crio = format!("/kubepods/besteffort/pod{POD}/crio-{ID}");
        assert_container(&crio, "cri-o", Some(POD));
        let kind = format!(
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-pod{}.slice/cri-containerd-{ID}.scope",
            POD.replace('-', "_")
        );
        assert_container(&kind, "containerd", Some(POD));
    }

    #[test]
    fn static_pods_uid_is_a_hash() {
        let uid = "0123456789abcdef0123456789abcdef";
        let found = container(&format!("/kubepods/pod{uid}/{ID}")).unwrap();
        assert_eq!(found.pod_uid.as_deref(), Some(uid));
    }

    #[test]
    fn what_only_looks_like_a_container_is_none() {
        let cases = [
            "/".to_owned(),
            "/system.slice/docker.service".to_owned(),
            "/system.slice/docker-0123.scope".to_owned(),
            format!("/system.slice/docker-{}.scope", ID.to_uppercase()),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/builds/{ID}"),
            format!("/system.slice/crio-conmon-{ID}.scope"),
            "/lxc.monitor.web1".to_owned(),
            "/lxc".to_owned(),
            "/lxc.payload.".to_owned(),
            "/machine.slice".to_owned(),
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator".to_owned(),
            "/ecs/service/worker".to_owned(),
            "/nomad.slice/share.slice".to_owned(),
            "/system.slice/docker.socket".to_owned(),
            format!("/podcast/{ID}"),
            format!("/tripod{POD}/{ID}"),
            ID.to_owned(),
        ];
        for path in cases {
            assert_eq!(container(&path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_read_without_panic(path in "([a-z:./_-]|pod|docker|[0-9a-f]{64}){0,12}|\\PC{0,80}") {
            if let Some(found) = container(&path).filter(|_| !path.contains('\\')) {
                prop_assert!(path.contains(found.id.split('.').next().unwrap()));
            }
        }
    }
}
