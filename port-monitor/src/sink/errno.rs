//! The error numbers attempts end with, for people and for programs.
//!
//! The numbers are those of every architecture without a table of its own, so
//! of x86-64 and arm64.

/// For a number without a name.
pub(super) const UNKNOWN: &str = "unknown error number";

/// The symbolic name; `None` for a number no attempt is known to end with.
pub(super) const fn name(errno: i32) -> Option<&'static str> {
    Some(match errno {
        1 => "EPERM",
        4 => "EINTR",
        12 => "ENOMEM",
        13 => "EACCES",
        22 => "EINVAL",
        32 => "EPIPE",
        71 => "EPROTO",
        90 => "EMSGSIZE",
        98 => "EADDRINUSE",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        102 => "ENETRESET",
        103 => "ECONNABORTED",
        104 => "ECONNRESET",
        105 => "ENOBUFS",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        125 => "ECANCELED",
        _ => return None,
    })
}

/// A word for the common ones, the name for the others.
pub(super) const fn word(errno: i32) -> Option<&'static str> {
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
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn names_are_those_of_the_kernel() {
        for (errno, expected) in [
            (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
            (Errno::NETUNREACH, "ENETUNREACH"),
            (Errno::CONNRESET, "ECONNRESET"),
            (Errno::TIMEDOUT, "ETIMEDOUT"),
            (Errno::CONNREFUSED, "ECONNREFUSED"),
            (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        ] {
            assert_eq!(name(errno.raw_os_error()), Some(expected));
        }
        assert_eq!(word(Errno::CONNREFUSED.raw_os_error()), Some("refused"));
        assert_eq!(
            word(Errno::ADDRNOTAVAIL.raw_os_error()),
            Some("EADDRNOTAVAIL")
        );
        assert_eq!(word(0), None);
    }
}
