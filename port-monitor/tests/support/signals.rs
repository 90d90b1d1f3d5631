//! Signals that whoever started the tests has them ignore, as `nohup` does.

use std::sync::Once;

/// Those the tests send, wait for or rely on.
const USED: [libc::c_int; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCHLD,
];

/// Has every program that is started from now on find the default for [`USED`].
///
/// What is ignored stays so in a program that is started; what has a handler gets the
/// default. So each signal that is ignored gets a handler, which does nothing: this
/// process is as safe from the signal as it was.
pub(crate) fn default_in_programs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in USED {
            // SAFETY: all zero bytes are a valid `sigaction`.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: `action` is a valid place for what the signal does now.
            let told = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
            assert_eq!(told, 0, "signal {signal}");
            if action.sa_sigaction != libc::SIG_IGN {
                continue;
            }
            action.sa_sigaction = do_nothing as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            // SAFETY: the handler takes the number of a signal and touches nothing.
            let set = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
            assert_eq!(set, 0, "signal {signal}");
        }
    });
}

extern "C" fn do_nothing(_signal: libc::c_int) {}
