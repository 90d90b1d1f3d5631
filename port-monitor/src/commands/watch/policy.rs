//! Another policy while a run goes on, as far as the thread that reads the rings has a part in
//! it: whoever puts it into force asks for that in two steps.

use std::sync::Arc;

use tokio::sync::oneshot::Sender;

use crate::{
    events::record::LoadedPolicy, host::clock, kernel::ring::BATCH, pipeline::Pipeline,
    policy::Policy,
};

/// What is asked, and who is told when it is done.
pub(in crate::commands) enum PolicyRequest {
    /// Events may be judged by this policy from now on: the pipeline and the consumers are to
    /// know it first.
    Introduce(Arc<Policy>, LoadedPolicy, Sender<()>),
    /// No program judges by the one before any more: all events that it has judged are to be
    /// told.
    Settle(Sender<()>),
}

/// Events of the policy before are on their way.
#[derive(Default)]
pub(super) struct Settling {
    asked: Option<Sender<()>>,
    /// The rings were found empty since.
    is_drained: bool,
}

impl Settling {
    /// Does what is asked; whether the rings are to be read for that.
    pub(super) fn begin(&mut self, pipeline: &mut Pipeline, request: PolicyRequest) -> bool {
        match request {
            PolicyRequest::Introduce(policy, loaded, done) => {
                pipeline.introduce(policy, loaded);
                // Whoever asked may be gone.
                let _ = done.send(());
                false
            }
            PolicyRequest::Settle(done) => {
                pipeline.settle(clock::boot_ns());
                self.asked = Some(done);
                self.is_drained = false;
                true
            }
        }
    }

    /// So many records were taken from the rings at once.
    pub(super) const fn note_taken(&mut self, taken: usize) {
        self.is_drained |= taken < BATCH;
    }

    /// Tells whoever asked, as soon as it is so.
    pub(super) fn look(&mut self, pipeline: &mut Pipeline) {
        if let Some(asked) = self.asked.take_if(|_| pipeline.is_settled(self.is_drained)) {
            // As above.
            let _ = asked.send(());
        }
    }
}
