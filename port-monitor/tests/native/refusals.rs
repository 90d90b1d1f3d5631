//! What `watch` refuses on the kernel's account: a backend this kernel does not
//! have, and type information that is not its own.

use std::{
    fs::{self, File},
    path::Path,
};

use serde_json::Value;

use crate::program::port_monitor;

const CANNOT_ATTACH: i32 = 3;

/// The kernel's own type information.
const SYSTEM_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Exit status and standard error of a `watch`, where its command speaks too, if
/// it runs.
fn refusal(args: &[&str]) -> (Option<i32>, String) {
    let output = port_monitor(["watch"])
        .args(args)
        .args(["--", "echo", "the command ran"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr)
}

fn kernel_release() -> String {
    let uname = rustix::system::uname();
    uname.release().to_str().unwrap().to_owned()
}

#[test]
fn backend_is_refused_with_the_reason_that_doctor_gives() {
    let doctor = port_monitor(["doctor", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let backends = report["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 3);
    for backend in backends {
        let name = backend["name"].as_str().unwrap();
        let Some(reason) = backend["refused"].as_str() else {
            let (code, said) = refusal(&["--backend", name]);
            assert_eq!((code, &*said), (Some(0), "the command ran\n"));
            continue;
        };
        let line = format!(
            "port-monitor: backend {name} does not attach on kernel {}: {reason}; try --backend \
             auto\n",
            kernel_release()
        );
        let refused = refusal(&["--backend", name]);
        assert_eq!(refused, (Some(CANNOT_ATTACH), line));
    }
}

#[test]
fn file_that_is_no_btf_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let system = fs::read(SYSTEM_BTF).unwrap();
    fs::create_dir(path("directory")).unwrap();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("text"), "version = 1\n").unwrap();
    fs::write(path("half"), &system[..system.len() / 2]).unwrap();
    File::create(path("huge"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();

    let unreadable = |name: &str, reason: &str| {
        format!(
            "read the kernel's BTF from {}: {reason} (needs CONFIG_DEBUG_INFO_BTF, or --btf FILE \
             with this kernel's BTF)",
            path(name).display()
        )
    };
    let unusable = |name: &str, reason: &str| {
        format!(
            "{}: kernel BTF {reason}; leave --btf out to use the running kernel's own",
            path(name).display()
        )
    };
    for (name, message) in [
        (
            "missing",
            unreadable("missing", "No such file or directory (os error 2)"),
        ),
        ("directory", unreadable("directory", "not a regular file")),
        ("huge", unreadable("huge", "too large to be BTF")),
        (
            "empty",
            unusable("empty", "is truncated: nothing at byte 0"),
        ),
        (
            "text",
            unusable("text", "has a wrong magic number: not a BTF file"),
        ),
        (
            "half",
            unusable(
                "half",
                &format!("is truncated: nothing at byte {}", types_end(&system)),
            ),
        ),
    ] {
        let line = format!("port-monitor: {message}\n");
        let refused = refusal(&["--btf", path(name).to_str().unwrap()]);
        assert_eq!(refused, (Some(CANNOT_ATTACH), line));
    }
}

#[test]
fn btf_of_another_kernel_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("btf");
    write_foreign_btf(&path);
    let (code, said) = refusal(&["--btf", path.to_str().unwrap()]);
    assert_eq!(
        (code, said.lines().count()),
        (Some(CANNOT_ATTACH), 1),
        "{said}"
    );
    let begin = format!(
        "port-monitor: kernel {} reports remote port ",
        kernel_release()
    );
    assert!(said.starts_with(&begin), "{said}");
    let end = ": refusing to show wrong data; please report it with the output of `port-monitor \
               doctor`\n";
    assert!(said.ends_with(end), "{said}");
}

/// This kernel's BTF, with the remote port where the local one lies.
fn write_foreign_btf(path: &Path) {
    let mut btf = fs::read(SYSTEM_BTF).unwrap();
    let strings = word(&btf, 4) + word(&btf, 16);
    let name = b"\0skc_dport\0";
    let name = btf.windows(name.len()).rposition(|bytes| bytes == name);
    // A member is its name, its type, and its offset, which is 0 for this one.
    let name = u32::try_from(name.unwrap() + 1 - strings)
        .unwrap()
        .to_ne_bytes();
    let mut members = (0..strings - 12)
        .step_by(4)
        .filter(|&at| btf[at..].starts_with(&name) && word(&btf, at + 8) == 0);
    let member = members.next().expect("no skc_dport at offset 0");
    assert_eq!(members.next(), None, "several members named skc_dport");
    drop(members);
    let bits = 16_u32;
    btf[member + 8..member + 12].copy_from_slice(&bits.to_ne_bytes());
    fs::write(path, btf).unwrap();
}

/// Where the types end, by the BTF's own account.
fn types_end(btf: &[u8]) -> usize {
    word(btf, 4) + word(btf, 8) + word(btf, 12)
}

/// The 32-bit number at byte `at`.
fn word(btf: &[u8], at: usize) -> usize {
    let bytes = btf[at..at + 4].try_into().unwrap();
    u32::from_ne_bytes(bytes) as usize
}
