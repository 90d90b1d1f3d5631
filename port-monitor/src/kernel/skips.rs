//! How often the kernel skipped a program because the CPU was in the middle of
//! it already. aya does not tell; `/proc/self/fdinfo` of the program does.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::programs::Program;

/// The skipped runs of a program, zero before Linux 5.12; `None` when it is not loaded.
pub(super) fn of(program: &Program) -> Option<u64> {
    let fd = program.fd().ok()?;
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    Some(parse(&fs::read_to_string(path).unwrap_or_default()))
}

/// The line `recursion_misses:\t23`.
pub(super) fn parse(fdinfo: &str) -> u64 {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use crate::kernel::skips::*;

    #[test]
    fn skips_are_found_among_the_other_lines() {
        let fdinfo = "pos:\t0\nprog_type:\t26\nrecursion_misses:\t23\nverified_insns:\t4\n";
        assert_eq!(parse(fdinfo), 23);
        assert_eq!(parse("pos:\t0\n"), 0);
    }
}
