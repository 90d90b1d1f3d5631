//! Standard output, which may be closed from the start.
//!
//! The standard library opens /dev/null in its place then, before `main`: whatever is
//! written would be lost without a word. Nobody can tell that /dev/null from one that the
//! user has named, which many programs open for reading as well: it is noted before.

use std::{
    io::{self, StdoutLock, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{io::fcntl_getfd, stdio};

static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Notes whether standard output is closed. It is for the C library to run before the
/// standard library begins: later than that, it never is.
pub extern "C" fn note() {
    IS_CLOSED.store(fcntl_getfd(stdio::stdout()).is_err(), Ordering::Relaxed);
}

/// Standard output, whose writes fail where it was closed.
#[derive(Debug)]
pub struct Stdout(Option<StdoutLock<'static>>);

impl Stdout {
    /// Takes it for this thread.
    pub fn lock() -> Self {
        Self(check().is_ok().then(|| io::stdout().lock()))
    }

    fn open(&mut self) -> io::Result<&mut StdoutLock<'static>> {
        self.0.as_mut().ok_or_else(closed)
    }
}

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.open()?.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open()?.flush()
    }
}

/// Fails where standard output was closed at the start.
pub fn check() -> io::Result<()> {
    if IS_CLOSED.load(Ordering::Relaxed) {
        return Err(closed());
    }
    Ok(())
}

fn closed() -> io::Error {
    io::Error::other("it is closed: redirect it, to /dev/null if need be")
}
