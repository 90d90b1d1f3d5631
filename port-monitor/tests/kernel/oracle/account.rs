//! The disagreements, each with its reason: one without a reason is an error.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// Disagreements without a reason that are told; the others are counted.
const SHOWN: usize = 6;

/// docs/compared.md explains every one of them, in the words of [`Reason::text`].
const COMPARED: &str = include_str!("../../../../docs/compared.md");

/// What the kernel does to all three.
const SKIPPED: &str = "misses what happens while its CPU is running another such program";

/// Why a tool differs from us where we are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    TracerFailed,
    TracerMappedConnect,
    TracerMappedForm,
    TracerShortName,
    TracerCloser,
    TracerReset,
    TracerSkipped,
    LifeFailed,
    LifeUnsent,
    LifeNobody,
    LifeMappedForm,
    LifeBystander,
    LifeSequence,
    LifeSpan,
    LifeSkipped,
    LatencyRefused,
    LatencyFailed,
    LatencyMappedForm,
    LatencyShortName,
    LatencySpan,
    LatencySkipped,
}

impl Reason {
    /// Every one of them.
    pub(crate) const ALL: [Self; 21] = [
        Self::TracerFailed,
        Self::TracerMappedConnect,
        Self::TracerMappedForm,
        Self::TracerShortName,
        Self::TracerCloser,
        Self::TracerReset,
        Self::TracerSkipped,
        Self::LifeFailed,
        Self::LifeUnsent,
        Self::LifeNobody,
        Self::LifeMappedForm,
        Self::LifeBystander,
        Self::LifeSequence,
        Self::LifeSpan,
        Self::LifeSkipped,
        Self::LatencyRefused,
        Self::LatencyFailed,
        Self::LatencyMappedForm,
        Self::LatencyShortName,
        Self::LatencySpan,
        Self::LatencySkipped,
    ];

    /// Whether it happens depends on what interrupts what.
    const fn is_by_chance(self) -> bool {
        matches!(
            self,
            Self::TracerSkipped | Self::LifeSkipped | Self::LatencySkipped
        )
    }

    /// The tool, and what it does.
    pub(crate) const fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::TracerFailed => ("tcptracer", "shows no attempt that fails"),
            Self::TracerMappedConnect => (
                "tcptracer",
                "misses the connect of an IPv6 socket to an IPv4 address",
            ),
            Self::TracerMappedForm => ("tcptracer", "shows IPv4 over an IPv6 socket as IPv6"),
            Self::TracerShortName => ("tcptracer", "cuts names off after 12 bytes"),
            Self::TracerCloser => (
                "tcptracer",
                "names who closes last, not who opened or accepted",
            ),
            Self::TracerReset => (
                "tcptracer",
                "misses the accept of a connection that was reset before",
            ),
            Self::LifeFailed => ("tcplife", "shows a failed attempt like a short connection"),
            Self::LifeUnsent => ("tcplife", "shows no attempt without a route or permission"),
            Self::LifeNobody => ("tcplife", "shows a connection nobody accepted"),
            Self::LifeMappedForm => ("tcplife", "shows IPv4 over an IPv6 socket as IPv6"),
            Self::LifeBystander => (
                "tcplife",
                "names whatever process runs when the last packet comes",
            ),
            Self::LifeSequence => ("tcplife", "counts SYN and FIN as bytes sent or received"),
            Self::LifeSpan => ("tcplife", "counts the time from the end of the handshake"),
            Self::LatencySpan => (
                "tcpconnlat",
                "counts the time from connect's first step to the answer",
            ),
            Self::TracerSkipped => ("tcptracer", SKIPPED),
            Self::LifeSkipped => ("tcplife", SKIPPED),
            Self::LatencySkipped => ("tcpconnlat", SKIPPED),
            Self::LatencyRefused => ("tcpconnlat", "shows a refused attempt like a success"),
            Self::LatencyFailed => ("tcpconnlat", "shows no attempt that gets no answer"),
            Self::LatencyMappedForm => ("tcpconnlat", "shows IPv4 over an IPv6 socket as IPv6"),
            Self::LatencyShortName => ("tcpconnlat", "cuts names off after 12 bytes"),
        }
    }
}

/// What the comparison has come to.
#[derive(Debug, Default)]
pub(crate) struct Account {
    agreed: u32,
    explained: BTreeMap<Reason, u32>,
    unexplained: Vec<String>,
}

impl Account {
    /// A tool says what we say.
    pub(crate) fn agree(&mut self) {
        self.agreed += 1;
    }

    /// It does not, and that is why.
    pub(crate) fn explain(&mut self, reason: Reason) {
        *self.explained.entry(reason).or_default() += 1;
    }

    /// It does not, and nobody knows why.
    pub(crate) fn unexplained(&mut self, what: String) {
        self.unexplained.push(what);
    }

    /// How often a tool agreed.
    pub(crate) const fn agreed(&self) -> u32 {
        self.agreed
    }

    /// A line for each reason that was met: how often, which tool, what it does.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.explained.iter().map(|(reason, count)| {
            let (tool, does) = reason.text();
            format!("{count} x {tool} {does}")
        })
    }

    /// Nothing is unexplained, every reason but chance was met, and docs/compared.md has it.
    pub(crate) fn settle(&self) -> Result<()> {
        let more = self.unexplained.len().saturating_sub(SHOWN);
        let shown: Vec<&str> = self
            .unexplained
            .iter()
            .take(SHOWN)
            .map(String::as_str)
            .collect();
        ensure!(
            shown.is_empty(),
            "unexplained: {}; {more} more like these",
            shown.join("; ")
        );
        for reason in Reason::ALL {
            let (tool, does) = reason.text();
            ensure!(
                reason.is_by_chance() || self.explained.contains_key(&reason),
                "{reason:?} did not happen"
            );
            let row = format!("| `{tool}` | {does} |");
            ensure!(
                COMPARED.contains(&row),
                "docs/compared.md has no row `{row}`"
            );
        }
        Ok(())
    }
}
