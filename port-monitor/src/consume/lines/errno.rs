//! The error numbers attempts end with, for people and for programs.
//!
//! The numbers are those of every architecture without a table of its own, so
//! of x86-64 and arm64.

/// The greatest that has a name.
const LAST: i32 = 524;
/// For a number without a name.
pub(crate) const UNKNOWN: &str = "unknown error number";

/// The symbolic name; `None` for a number that has none in the kernel's
/// `uapi/asm-generic/errno.h`. Beside the network, a packet filter, a security module or
/// an eBPF program of somebody else may say any of them.
#[expect(clippy::too_many_lines, reason = "a line each")]
pub(crate) const fn name(errno: i32) -> Option<&'static str> {
    Some(match errno {
        1 => "EPERM",
        2 => "ENOENT",
        3 => "ESRCH",
        4 => "EINTR",
        5 => "EIO",
        6 => "ENXIO",
        7 => "E2BIG",
        8 => "ENOEXEC",
        9 => "EBADF",
        10 => "ECHILD",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        15 => "ENOTBLK",
        16 => "EBUSY",
        17 => "EEXIST",
        18 => "EXDEV",
        19 => "ENODEV",
        20 => "ENOTDIR",
        21 => "EISDIR",
        22 => "EINVAL",
        23 => "ENFILE",
        24 => "EMFILE",
        25 => "ENOTTY",
        26 => "ETXTBSY",
        27 => "EFBIG",
        28 => "ENOSPC",
        29 => "ESPIPE",
        30 => "EROFS",
        31 => "EMLINK",
        32 => "EPIPE",
        33 => "EDOM",
        34 => "ERANGE",
        35 => "EDEADLK",
        36 => "ENAMETOOLONG",
        37 => "ENOLCK",
        38 => "ENOSYS",
        39 => "ENOTEMPTY",
        40 => "ELOOP",
        42 => "ENOMSG",
        43 => "EIDRM",
        44 => "ECHRNG",
        45 => "EL2NSYNC",
        46 => "EL3HLT",
        47 => "EL3RST",
        48 => "ELNRNG",
        49 => "EUNATCH",
        50 => "ENOCSI",
        51 => "EL2HLT",
        52 => "EBADE",
        53 => "EBADR",
        54 => "EXFULL",
        55 => "ENOANO",
        56 => "EBADRQC",
        57 => "EBADSLT",
        59 => "EBFONT",
        60 => "ENOSTR",
        61 => "ENODATA",
        62 => "ETIME",
        63 => "ENOSR",
        64 => "ENONET",
        65 => "ENOPKG",
        66 => "EREMOTE",
        67 => "ENOLINK",
        68 => "EADV",
        69 => "ESRMNT",
        70 => "ECOMM",
        71 => "EPROTO",
        72 => "EMULTIHOP",
        73 => "EDOTDOT",
        74 => "EBADMSG",
        75 => "EOVERFLOW",
        76 => "ENOTUNIQ",
        77 => "EBADFD",
        78 => "EREMCHG",
        79 => "ELIBACC",
        80 => "ELIBBAD",
        81 => "ELIBSCN",
        82 => "ELIBMAX",
        83 => "ELIBEXEC",
        84 => "EILSEQ",
        85 => "ERESTART",
        86 => "ESTRPIPE",
        87 => "EUSERS",
        88 => "ENOTSOCK",
        89 => "EDESTADDRREQ",
        90 => "EMSGSIZE",
        91 => "EPROTOTYPE",
        92 => "ENOPROTOOPT",
        93 => "EPROTONOSUPPORT",
        94 => "ESOCKTNOSUPPORT",
        95 => "EOPNOTSUPP",
        96 => "EPFNOSUPPORT",
        97 => "EAFNOSUPPORT",
        98 => "EADDRINUSE",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        102 => "ENETRESET",
        103 => "ECONNABORTED",
        104 => "ECONNRESET",
        105 => "ENOBUFS",
        106 => "EISCONN",
        107 => "ENOTCONN",
        108 => "ESHUTDOWN",
        109 => "ETOOMANYREFS",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        114 => "EALREADY",
        115 => "EINPROGRESS",
        116 => "ESTALE",
        117 => "EUCLEAN",
        118 => "ENOTNAM",
        119 => "ENAVAIL",
        120 => "EISNAM",
        121 => "EREMOTEIO",
        122 => "EDQUOT",
        123 => "ENOMEDIUM",
        124 => "EMEDIUMTYPE",
        125 => "ECANCELED",
        126 => "ENOKEY",
        127 => "EKEYEXPIRED",
        128 => "EKEYREVOKED",
        129 => "EKEYREJECTED",
        130 => "EOWNERDEAD",
        131 => "ENOTRECOVERABLE",
        132 => "ERFKILL",
        133 => "EHWPOISON",
        // Of `linux/errno.h`: not meant for programs, but some are told it.
        524 => "ENOTSUPP",
        _ => return None,
    })
}

/// The number of a symbolic name, or of itself.
pub(crate) fn number(code: &str) -> Option<i32> {
    let mut known = (1..=LAST).filter(|errno| name(*errno).is_some());
    let named = known.find(|errno| name(*errno) == Some(code));
    named.or_else(|| code.parse().ok())
}

/// A word for the common ones, the name for the others.
pub(crate) const fn word(errno: i32) -> Option<&'static str> {
    match errno {
        101 | 113 => Some("unreachable"),
        104 => Some("reset"),
        110 => Some("timed out"),
        111 => Some("refused"),
        _ => name(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use rustix::io::Errno;

    use crate::consume::lines::errno::*;

    unsafe extern "C" {
        /// glibc 2.32: the name of a number, or null.
        safe fn strerrorname_np(errno: core::ffi::c_int) -> *const core::ffi::c_char;
    }

    #[test]
    fn every_number_that_the_c_library_knows_has_its_name() {
        let mut named = 0;
        for errno in -1..=4_095 {
            let theirs = strerrorname_np(errno);
            if theirs.is_null() {
                assert!(name(errno).is_none() || errno == 524, "{errno}");
                continue;
            }
            // SAFETY: not null, so a static string that ends with a zero byte.
            let theirs = unsafe { CStr::from_ptr(theirs) }.to_str().unwrap();
            let expected = (errno != 0).then_some(theirs);
            assert_eq!(name(errno), expected, "{errno}");
            assert!(expected.is_none_or(|code| number(code) == Some(errno)));
            named += 1;
        }
        assert!(named > 130, "{named} names");
    }

    #[test]
    fn the_common_ones_have_a_word() {
        assert_eq!(word(Errno::CONNREFUSED.raw_os_error()), Some("refused"));
        assert_eq!(
            word(Errno::ADDRNOTAVAIL.raw_os_error()),
            Some("EADDRNOTAVAIL")
        );
        assert_eq!(word(0), None);
        assert_eq!([number("-7"), number("ENOTSUPP")], [Some(-7), Some(524)]);
        assert_eq!(number("EMOON"), None);
    }
}
