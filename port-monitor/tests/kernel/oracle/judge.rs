//! Each tool's lines against our records: what is the same, and why the rest is
//! not.

use crate::oracle::{
    account::{Account, Reason},
    end::{Began, Close, End},
    line::{Line, Says, Told},
};

/// The names tcptracer and tcpconnlat print have this many bytes at most.
const SHORT: usize = 12;

/// What may lie between two hooks on one event, in an emulated guest on a busy
/// host.
const SLACK_MS: f64 = 250.0;

/// What may lie between two steps of a connection there.
const STEP_MS: f64 = 2_000.0;

/// A tool's lines, of which each can belong to one of our ends.
struct Pool {
    lines: Vec<Line>,
    /// How often the kernel skipped one of its programs.
    skipped: u64,
    /// What it does then.
    reason: Reason,
}

impl Pool {
    fn new(told: Told, reason: Reason) -> Self {
        Self {
            lines: told.lines,
            skipped: told.skipped,
            reason,
        }
    }

    /// The first line about this end that says something like this.
    fn take(&mut self, end: &End, is_meant: impl Fn(&Says) -> bool) -> Option<Line> {
        let index = self.lines.iter().position(|line| {
            (line.local, line.remote) == (end.local, end.remote) && is_meant(&line.says)
        })?;
        Some(self.lines.remove(index))
    }

    /// What is left belongs to nothing of ours.
    fn drain(mut self, account: &mut Account) {
        for line in std::mem::take(&mut self.lines) {
            self.odd(account, || format!("theirs alone: {}", line.text));
        }
    }

    /// One of the two says something the other does not.
    fn alone(&mut self, line: Option<&Line>, end: &End, account: &mut Account) {
        match line {
            Some(line) => unlike(line, end, account),
            None => self.odd(account, || format!("ours alone: {end:?}")),
        }
    }

    /// A line too few, or one too many, of what was skipped before: no more of them
    /// than there were skips.
    fn odd(&mut self, account: &mut Account, what: impl FnOnce() -> String) {
        if self.skipped > 0 {
            self.skipped -= 1;
            account.explain(self.reason);
        } else {
            account.unexplained(what());
        }
    }
}

/// Connects that succeed, accepts, and calls of close.
pub(crate) fn tcptracer(ends: &[End], told: Told, account: &mut Account) {
    let mut pool = Pool::new(told, Reason::TracerSkipped);
    for end in ends {
        let begins = match end.began {
            Began::Accepted => Says::Accepted,
            _ => Says::Connected,
        };
        match (pool.take(end, |says| *says == begins), &end.began) {
            (None, Began::Failed(_)) => account.explain(Reason::TracerFailed),
            (None, Began::Connected(_)) if end.v4_mapped => {
                account.explain(Reason::TracerMappedConnect);
            }
            (None, Began::Accepted) if is_reset(end) => account.explain(Reason::TracerReset),
            (Some(line), Began::Accepted | Began::Connected(_)) => {
                let is_owner = line.pid == end.pid;
                if is_owner && is_short(&line, end, Reason::TracerShortName, account) {
                    is_plain(&line, Reason::TracerMappedForm, account);
                } else {
                    unlike(&line, end, account);
                }
            }
            (line, _) => pool.alone(line.as_ref(), end, account),
        }
        match (pool.take(end, |says| *says == Says::Closed), &end.close) {
            (None, None) => {}
            (Some(line), Some(_)) => {
                is_plain(&line, Reason::TracerMappedForm, account);
                if line.pid != end.pid {
                    account.explain(Reason::TracerCloser);
                } else if !is_short(&line, end, Reason::TracerShortName, account) {
                    unlike(&line, end, account);
                }
            }
            (line, _) => pool.alone(line.as_ref(), end, account),
        }
    }
    pool.drain(account);
}

/// The peer took the connection back.
fn is_reset(end: &End) -> bool {
    matches!(&end.close, Some(close) if close.by == "peer-reset")
}

/// Ends, with bytes and duration.
pub(crate) fn tcplife(ends: &[End], told: Told, account: &mut Account) {
    let mut pool = Pool::new(told, Reason::LifeSkipped);
    for end in ends {
        match (pool.take(end, |_| true), &end.close) {
            (Some(line), Some(close)) => lived(&line, end, close, account),
            (Some(_), None) if matches!(end.began, Began::Failed(_)) => {
                account.explain(Reason::LifeFailed);
            }
            (None, None) if is_unsent(end) => account.explain(Reason::LifeUnsent),
            (line, _) => pool.alone(line.as_ref(), end, account),
        }
    }
    pool.lines.retain(|line| {
        let is_nobodys = is_never_accepted(line, ends);
        if is_nobodys {
            account.explain(Reason::LifeNobody);
        }
        !is_nobodys
    });
    pool.drain(account);
}

fn lived(line: &Line, end: &End, close: &Close, account: &mut Account) {
    is_plain(line, Reason::LifeMappedForm, account);
    let is_owner = line.pid == end.pid && line.comm == end.comm;
    // Whoever opened it, or closed after the peer, it saved.
    let is_by_peer = end.began == Began::Accepted && close.by != "peer";
    match (is_owner, is_by_peer) {
        (true, _) => account.agree(),
        (false, true) => account.explain(Reason::LifeBystander),
        (false, false) => unlike(line, end, account),
    }
    let Says::Lived(sent, received, ms) = &line.says else {
        return;
    };
    for (theirs, ours) in [(sent, close.sent), (received, close.received)] {
        if *theirs == kilobytes(ours) {
            account.agree();
        } else if *theirs == kilobytes(ours + 1) || *theirs == kilobytes(ours + 2) {
            account.explain(Reason::LifeSequence);
        } else {
            unlike(line, end, account);
        }
    }
    let ours = float(close.duration_ns) / 1e6;
    let bounds = match end.began {
        Began::Connected(took_us) => {
            let established = ours - float(took_us) / 1e3;
            (established - SLACK_MS, established + SLACK_MS)
        }
        _ => (ours - SLACK_MS, ours + STEP_MS),
    };
    if !span(*ms, ours, bounds, Reason::LifeSpan, account) {
        unlike(line, end, account);
    }
}

/// As tcplife prints them.
fn kilobytes(bytes: u64) -> String {
    format!("{:.2}", float(bytes) / 1024.0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no test lasts or sends anything near 2^53"
)]
const fn float(number: u64) -> f64 {
    number as f64
}

/// Nobody accepted the connection that one of ours opened.
fn is_never_accepted(line: &Line, ends: &[End]) -> bool {
    let is_opened = |end: &End| {
        (end.remote, end.local) == (line.local, line.remote)
            && matches!(end.began, Began::Connected(_))
    };
    let is_accepted = |end: &End| (end.local, end.remote) == (line.local, line.remote);
    ends.iter().any(is_opened) && !ends.iter().any(is_accepted)
}

fn is_unsent(end: &End) -> bool {
    matches!(&end.began, Began::Failed(errno) if errno == "EPERM" || errno == "ENETUNREACH")
}

/// Answers to a SYN, and how long they took.
pub(crate) fn tcpconnlat(ends: &[End], told: Told, account: &mut Account) {
    let mut pool = Pool::new(told, Reason::LatencySkipped);
    for end in ends.iter().filter(|end| end.began != Began::Accepted) {
        match (pool.take(end, |_| true), &end.began) {
            (Some(line), Began::Connected(took_us)) => {
                is_plain(&line, Reason::LatencyMappedForm, account);
                let is_owner = line.pid == end.pid;
                if !is_owner || !is_short(&line, end, Reason::LatencyShortName, account) {
                    unlike(&line, end, account);
                }
                if let Says::Answered(ms) = line.says {
                    let ours = float(*took_us) / 1e3;
                    let bounds = (ours - STEP_MS, ours + SLACK_MS);
                    if !span(ms, ours, bounds, Reason::LatencySpan, account) {
                        unlike(&line, end, account);
                    }
                }
            }
            (Some(_), Began::Failed(errno)) if errno == "ECONNREFUSED" => {
                account.explain(Reason::LatencyRefused);
            }
            (None, Began::Failed(errno)) if errno != "ECONNREFUSED" => {
                account.explain(Reason::LatencyFailed);
            }
            (line, _) => pool.alone(line.as_ref(), end, account),
        }
    }
    pool.drain(account);
}

/// Whether the line has the name; cut off, that is a disagreement.
fn is_short(line: &Line, end: &End, reason: Reason, account: &mut Account) -> bool {
    if line.comm == end.comm {
        account.agree();
        return true;
    }
    let is_cut = end.comm.get(..SHORT) == Some(&line.comm);
    if is_cut {
        account.explain(reason);
    }
    is_cut
}

/// The form of the line's addresses is ours, or that is a disagreement.
fn is_plain(line: &Line, reason: Reason, account: &mut Account) {
    if line.v4_mapped {
        account.explain(reason);
    } else {
        account.agree();
    }
}

/// A time that is ours or, for this reason, one between two.
fn span(
    theirs: f64,
    ours: f64,
    (low, high): (f64, f64),
    reason: Reason,
    account: &mut Account,
) -> bool {
    if (theirs - ours).abs() < 0.01 {
        account.agree();
        return true;
    }
    let is_explained = (low..=high).contains(&theirs);
    if is_explained {
        account.explain(reason);
    }
    is_explained
}

fn unlike(line: &Line, end: &End, account: &mut Account) {
    account.unexplained(format!("{} is not {end:?}", line.text));
}
