//! This room's parsers, for fuzzers.

use std::os::unix::ffi::OsStrExt as _;

use super::{
    cgroup::cgroup2_mount_point,
    container::container,
    file_id::device_of_mount,
    process::{Paths, args_in},
    stat::Stat,
    unit::unit,
    units::name,
};

/// `stat`, `cgroup` and `cmdline` of a process.
pub(crate) fn process(bytes: &[u8]) {
    Stat::parse(bytes);
    let paths = Paths::parse(bytes);
    for path in paths.v1.iter().chain(&paths.v2) {
        assert!(!path.contains('\n'), "a path is of one line");
        assert!(unit(path).is_none_or(|unit| path.contains(unit)));
        if let Some(container) = container(path) {
            assert!(!container.id.is_empty());
        }
    }
    let args = args_in(bytes);
    assert_eq!(args.is_none(), bytes.is_empty());
}

/// `mountinfo` of a process.
pub(crate) fn mounts(bytes: &[u8]) {
    for line in bytes.split(|&byte| byte == b'\n') {
        if let Some(point) = cgroup2_mount_point(line) {
            assert!(point.as_os_str().as_bytes().len() <= line.len());
        }
    }
    let text = String::from_utf8_lossy(bytes);
    device_of_mount(&text, 41);
}

/// Names of units, and patterns of them.
pub(crate) fn words(text: &str) {
    let (pattern, unit) = text.split_once('\n').unwrap_or((text, text));
    if let Some(whole) = name::completed(unit) {
        assert_eq!(name::completed(&whole).as_deref(), Some(&*whole));
    }
    if let Some(all) = name::pattern(unit) {
        assert_eq!(name::pattern(&all).as_deref(), Some(&*all));
    }
    name::matches(pattern, unit);
    assert!(name::matches("*", unit));
    if !unit.contains(['*', '?']) {
        assert!(name::matches(unit, unit));
    }
    name::slices_around(unit);
    name::slices_below(unit);
    name::template(unit);
}
