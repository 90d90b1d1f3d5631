//! The places in the eBPF object where a map or a helper may answer with an error. Each
//! has a number, and its failures are counted by errno.

use crate::numbered::numbered;

numbered! {
    /// A place in the object that may fail. Numbers are only ever appended.
    pub enum Site: u32 {
        /// A field of a socket could not be read.
        Socket = 0,
        /// The process that holds a socket older than the monitor could not be read.
        Holder = 1,
        /// The arguments of `connect` could not be read.
        Call = 2,
        /// The fields of a tracepoint's event could not be read.
        Event = 3,
        /// A process that is forked could not be told.
        Process = 4,
        /// An attempt or a connection could not be put into the table of connections: its
        /// outcome or its end is not reported.
        Remember = 5,
        /// It could not be taken out of that table. What is reported of it is reported once
        /// all the same.
        Forget = 6,
        /// A listener could not be put into the table of listening sockets: its end is not
        /// reported.
        RememberListener = 7,
        /// It could not be taken out of that table, likewise.
        ForgetListener = 8,
        /// The owner of a listener could not be stored (tracepoint backend).
        RememberOwner = 9,
        /// The owner of a listener that has ended stays (tracepoint backend).
        ForgetOwner = 10,
        /// The arguments of a `connect` could not be kept until it returns: it is not told
        /// if it fails before its SYN.
        RememberCall = 11,
        /// They could not be taken out again.
        ForgetCall = 12,
        /// A process of the watched tree could not be followed.
        Follow = 13,
        /// A process of the watched tree that has ended stays in its table.
        Unfollow = 14,
        /// The look at the open files could not report its progress.
        Progress = 15,
        /// A cgroup that comes or goes could not be told: the filter does not know it.
        Group = 16,
        /// A new cgroup that the filter means could not be put into its table.
        RememberGroup = 17,
        /// A cgroup of the filter that is gone stays in its table.
        ForgetGroup = 18,
        /// The path of what a process executes could not be read, or is too long
        /// (`ENAMETOOLONG`): it is told if /proc still has it.
        Executable = 19,
        /// The ring of those who close listeners was full: whose the last connections to one of
        /// them are is not known (tracepoint backend).
        TellCloser = 20,
        /// That the end of a handshake is told could not be noted: the program that comes after
        /// tells it (tracepoint backend).
        NoteTold = 21,
    }
}

impl Site {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Holder => "holder",
            Self::Call => "call",
            Self::Event => "event",
            Self::Process => "process",
            Self::Remember => "remember",
            Self::Forget => "forget",
            Self::RememberListener => "remember_listener",
            Self::ForgetListener => "forget_listener",
            Self::RememberOwner => "remember_owner",
            Self::ForgetOwner => "forget_owner",
            Self::RememberCall => "remember_call",
            Self::ForgetCall => "forget_call",
            Self::Follow => "follow",
            Self::Unfollow => "unfollow",
            Self::Progress => "progress",
            Self::Group => "group",
            Self::RememberGroup => "remember_group",
            Self::ForgetGroup => "forget_group",
            Self::Executable => "executable",
            Self::TellCloser => "tell_closer",
            Self::NoteTold => "note_told",
        }
    }

    /// A failure here ends the look at an event: the program gives up, and what it looked
    /// at is not reported. Elsewhere the event is reported all the same.
    pub const fn gives_up(self) -> bool {
        matches!(self, Self::Socket | Self::Call | Self::Event | Self::Holder)
    }

    /// What fails here may cost an event that was asked for: it is not reported, or no filter
    /// knows that it is meant.
    pub const fn costs_events(self) -> bool {
        match self {
            Self::Socket
            | Self::Holder
            | Self::Call
            | Self::Event
            | Self::Process
            | Self::Remember
            | Self::RememberListener
            | Self::RememberOwner
            | Self::RememberCall
            | Self::Follow
            | Self::Group
            | Self::RememberGroup => true,
            // What stays in a table costs room there. A path is looked up in /proc then, the
            // ring counts what finds no room in it, and an owner who is not known in time is
            // told, or counted as late where a filter had to know it. What one program leaves
            // to another is told by that.
            Self::Forget
            | Self::ForgetListener
            | Self::ForgetOwner
            | Self::ForgetCall
            | Self::Unfollow
            | Self::ForgetGroup
            | Self::Executable
            | Self::Progress
            | Self::TellCloser
            | Self::NoteTold => false,
        }
    }

    /// What fails here is an insertion into a table: where that is full, connections lose
    /// their outcome or end, listeners their owner, or processes are not followed.
    pub const fn is_insertion(self) -> bool {
        matches!(
            self,
            Self::Remember
                | Self::RememberListener
                | Self::RememberOwner
                | Self::RememberCall
                | Self::Follow
                | Self::RememberGroup
        )
    }
}

/// Errnos that are told apart; greater ones count as the last.
pub const ERRNOS: u32 = 128;

/// Counters of all sites.
pub const FAILURES: u32 = Site::COUNT_32 * ERRNOS;

/// The place of the one number after the counters: one more than the [`Site`] that is to
/// fail, in tests.
pub const INJECT: u32 = FAILURES;

/// The place of the sum of all counters.
pub const TOTAL: u32 = FAILURES + 1;

/// Numbers in all.
pub const NUMBERS: u32 = FAILURES + 2;

/// The index of the counter of one errno, as a helper returns it: negative.
#[inline(always)]
pub const fn failure(site: Site, error: i32) -> u32 {
    let errno = error.unsigned_abs();
    let errno = if errno < ERRNOS { errno } else { ERRNOS - 1 };
    site as u32 * ERRNOS + errno
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_stand_at_their_numbers_and_have_counters_of_their_own() {
        for (number, site) in (0..).zip(Site::ALL) {
            assert_eq!(site as u32, number);
            assert_eq!(failure(site, -1), number * ERRNOS + 1);
            assert!(failure(site, i32::MIN) < (number + 1) * ERRNOS);
        }
    }
}
