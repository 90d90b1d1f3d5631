//! Where the names of users and of hosts are looked up, in a program that has its C library
//! in itself.

use std::{
    ffi::{CStr, c_char, c_int},
    io,
};

/// A kind of names, and the sources that are in the C library itself.
const SOURCES: [(&CStr, &CStr); 2] = [(c"passwd", c"files"), (c"hosts", c"files dns")];

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    /// Of `<nss.h>`, in every glibc.
    fn __nss_configure_lookup(kind: *const c_char, sources: *const c_char) -> c_int;
}

/// From now on users are those of `/etc/passwd`, and hosts those of `/etc/hosts` and of DNS,
/// whatever `/etc/nsswitch.conf` says.
///
/// glibc would load a library for each source that is named there, and with it another C
/// library beside its own: the first user that nobody knows ends such a program by SIGSEGV.
#[cfg(target_env = "gnu")]
pub fn without_libraries() -> io::Result<()> {
    for (kind, sources) in SOURCES {
        // SAFETY: two texts that end in NUL and live for ever, of which glibc keeps copies.
        let status = unsafe { __nss_configure_lookup(kind.as_ptr(), sources.as_ptr()) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
