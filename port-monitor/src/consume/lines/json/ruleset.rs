//! Which policy judged, as the line of an event names it.

use std::sync::Arc;

use super::line::Line;
use crate::events::record::{Judgement, Ruleset};

/// The texts of policies: that of the stream, and that of the last judged event.
#[derive(Debug, Default)]
pub(super) struct RulesetTexts {
    /// Of those whose policy nobody knows; empty without a policy.
    of_stream: Vec<u8>,
    last: Option<(Arc<Ruleset>, Vec<u8>)>,
}

impl RulesetTexts {
    /// This is the policy file from here on.
    pub(super) fn begin(&mut self, policy: Option<&str>) {
        self.of_stream.clear();
        if let Some(policy) = policy {
            let mut line = Line(&mut self.of_stream);
            line.raw(r#""ruleset":"#);
            line.string(policy);
        }
    }

    /// The policy of a judged event.
    pub(super) fn text(&mut self, judgement: &Judgement) -> &[u8] {
        let Some(ruleset) = &judgement.ruleset else {
            return &self.of_stream;
        };
        let last = self.last.take();
        let known = last.filter(|(last, _)| Arc::ptr_eq(last, ruleset));
        let named = known.unwrap_or_else(|| (Arc::clone(ruleset), text_of(ruleset)));
        &self.last.insert(named).1
    }
}

fn text_of(ruleset: &Ruleset) -> Vec<u8> {
    let Ruleset { file, version } = ruleset;
    let mut text = Vec::new();
    let mut line = Line(&mut text);
    line.raw(r#""ruleset":"#);
    line.string(&**file);
    line.raw(r#","version":"#);
    line.string(&**version);
    text
}
