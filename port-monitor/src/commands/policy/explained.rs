//! What `policy explain` answers, as text and as JSON.

use std::{
    io::{self, Write},
    net::IpAddr,
    path::Path,
};

use port_monitor_common::policy::{Action, Condition, Direction, Verdict};
use serde::Serialize;

use crate::{
    events::alert::Alert,
    policy::{Explanation, Reason, RuleRef},
};

/// The answer of `policy explain`.
#[derive(Serialize)]
pub(super) struct ExplainReport {
    verdict: &'static str,
    /// What is done about a violation.
    enforcement: Option<&'static str>,
    /// The peer's address that rules see, where it is not as it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) judged_as: Option<IpAddr>,
    decided_by: ReasonReport,
    next: Option<ReasonReport>,
    passed_over: Vec<PassedOver>,
}

/// A rule, or the default if it has no name.
#[derive(Serialize)]
pub(super) struct ReasonReport {
    #[serde(flatten)]
    rule: Option<RuleReport>,
    default: Option<&'static str>,
    pub(super) action: &'static str,
}

#[derive(Serialize)]
struct RuleReport {
    rule: String,
    file: String,
    line: usize,
    /// What the rule says.
    alert: Option<&'static str>,
}

#[derive(Serialize)]
struct PassedOver {
    #[serde(flatten)]
    rule: RuleReport,
    differs: &'static str,
}

impl ExplainReport {
    /// The answer, of a policy in this file.
    pub(super) fn of(explanation: &Explanation, direction: Direction, path: &Path) -> Self {
        let reason = |reason: &Reason| ReasonReport::of(reason, direction, path);
        let passed_over = explanation
            .passed_over
            .iter()
            .map(|(rule, condition)| PassedOver {
                rule: RuleReport::of(rule, path),
                differs: differs(*condition),
            });
        let (verdict, enforcement) = match explanation.verdict {
            Verdict::Allow => ("allow", None),
            Verdict::AuditDeny => ("violation", Some("observe")),
            Verdict::Deny => ("violation", Some("enforce")),
        };
        Self {
            verdict,
            enforcement,
            judged_as: None,
            decided_by: reason(&explanation.reason),
            next: explanation.next.as_ref().map(reason),
            passed_over: passed_over.collect(),
        }
    }

    /// Writes it as text.
    pub(super) fn write(&self, mut out: impl Write) -> io::Result<()> {
        let observed = if self.enforcement == Some("observe") {
            " (observed only: the connection goes on)"
        } else {
            ""
        };
        writeln!(out, "verdict      {}{observed}", self.verdict)?;
        if let Some(reached) = self.judged_as {
            writeln!(out, "judged as    {reached}, which the connection reaches")?;
        }
        writeln!(out, "decided by   {}", self.decided_by.text())?;
        if let Some(next) = &self.next {
            writeln!(out, "next         {}", next.text())?;
        }
        for passed in &self.passed_over {
            let rule = passed.rule.text();
            writeln!(out, "passed over  {rule}: {}", passed.differs)?;
        }
        Ok(())
    }
}

impl ReasonReport {
    /// The reason, in a policy in this file.
    pub(super) fn of(reason: &Reason, direction: Direction, path: &Path) -> Self {
        let default = match direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
            Direction::Listen => "listen",
        };
        let (rule, default, action) = match reason {
            Reason::Rule(rule) => (Some(RuleReport::of(rule, path)), None, rule.action),
            Reason::Default(action) => (None, Some(default), *action),
            Reason::Loopback => (None, Some("loopback"), Action::Allow),
            Reason::Kernel => (None, Some("kernel"), Action::Allow),
            Reason::Unjudged => (None, Some("unjudged"), Action::Allow),
        };
        Self {
            rule,
            default,
            action: match action {
                Action::Allow => "allow",
                Action::Deny => "deny",
            },
        }
    }

    /// In words.
    pub(super) fn text(&self) -> String {
        let by = match (&self.rule, self.default) {
            (Some(rule), _) => rule.text(),
            (None, Some("loopback")) => "the default, which spares loopback".to_owned(),
            (None, Some("kernel")) => "the default, which spares the kernel itself".to_owned(),
            (None, Some("unjudged")) => "none: UDP is not judged".to_owned(),
            (None, default) => format!("the {} default", default.unwrap_or_default()),
        };
        format!("{by}: {}", self.action)
    }
}

impl RuleReport {
    fn of(rule: &RuleRef, path: &Path) -> Self {
        Self {
            rule: rule.name.to_string(),
            file: path.display().to_string(),
            line: rule.line,
            alert: rule.alert.map(Alert::name),
        }
    }

    fn text(&self) -> String {
        let alert = self.alert.map(|alert| format!(", alert {alert}"));
        let alert = alert.unwrap_or_default();
        format!("{} ({}:{}{alert})", self.rule, self.file, self.line)
    }
}

const fn differs(condition: Condition) -> &'static str {
    match condition {
        Condition::Direction => "direction",
        Condition::Until => "expired",
        Condition::Port => "port",
        Condition::Peer => "peer",
        Condition::Owner(condition) => condition.word(),
    }
}
