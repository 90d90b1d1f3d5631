//! The container in a cgroup path: no daemon is asked. Pure.

use crate::record::Container;

/// Digits of a container's id: SHA-256 in hexadecimal.
const ID_DIGITS: usize = 64;

/// What runtimes write before the id in the name of a container's cgroup.
const PREFIXES: [(&str, &str); 6] = [
    ("docker", "docker"),
    ("libpod", "podman"),
    ("libpod-payload", "podman"),
    ("cri-containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("crio", "cri-o"),
];

/// The innermost container of a cgroup path.
pub(super) fn container(cgroup: &str) -> Option<Container> {
    let mut path = cgroup;
    while let Some((outer, directory)) = path.rsplit_once('/') {
        if let Some((id, runtime)) = named(directory).or_else(|| bare(directory, outer)) {
            return Some(Container {
                id: id.to_owned(),
                runtime,
                pod_uid: pod_uid(path),
            });
        }
        path = outer;
    }
    None
}

/// `docker-ID.scope`, `libpod-ID`, `kubepods-podUID.slice:cri-containerd:ID`.
fn named(directory: &str) -> Option<(&str, &'static str)> {
    let name = directory.strip_suffix(".scope").unwrap_or(directory);
    let (prefix, id) = name.rsplit_once(['-', ':'])?;
    let prefix = prefix.rsplit(':').next()?;
    let (_, runtime) = PREFIXES.iter().find(|(known, _)| *known == prefix)?;
    is_id(id).then_some((id, *runtime))
}

/// A bare id, which only its surroundings tell from any other directory:
/// `/docker/ID`, `/kubepods/burstable/podUID/ID`.
fn bare<'a>(directory: &'a str, outer: &str) -> Option<(&'a str, &'static str)> {
    let runtime = if outer.ends_with("/docker") {
        "docker"
    } else if pod_uid(outer).is_some() {
        // Any runtime of Kubernetes; the path does not say which.
        "kubernetes"
    } else {
        return None;
    };
    is_id(directory).then_some((directory, runtime))
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
        let is_pod = before.is_empty() || before.starts_with("kubepods");
        let uid = uid.replace('_', "-");
        // A static pod's uid is a hash without dashes.
        let digits = uid.replace('-', "");
        (is_pod && digits.len() == 32 && is_lower_hex(&digits)).then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            if let Some(found) = container(&path) {
                prop_assert!(path.contains(&found.id));
            }
        }
    }
}
