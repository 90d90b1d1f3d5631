//! Questions that may take long, answered by threads of their own: whoever asks waits for
//! a bounded time, and gets the answer later where that was not enough.

use std::{
    collections::HashSet,
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

/// Questions that wait for a thread; there is no room for more.
const QUEUE: usize = 1_024;
/// Threads at most. One more is started each time one has kept us waiting in vain.
const THREADS: usize = 4;
/// A wait in vain is followed by a pause this many times as long: at most 5 % of the time.
const PAUSE_FACTOR: u32 = 20;

/// Who answers questions.
pub(super) struct Asker<Q, A> {
    answer: Arc<dyn Fn(&Q) -> A + Send + Sync>,
    patience: Duration,
    questions: SyncSender<Q>,
    queue: Arc<Mutex<Receiver<Q>>>,
    answers: Receiver<(Q, A)>,
    answered: Sender<(Q, A)>,
    open: HashSet<Q>,
    threads: usize,
    /// Nothing is waited for until then.
    impatient: Option<Instant>,
}

impl<Q, A> fmt::Debug for Asker<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker")
            .field("open", &self.open.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl<Q, A> Asker<Q, A>
where
    Q: Clone + Eq + Hash + Send + 'static,
    A: Send + 'static,
{
    /// Questions are answered by `answer`; one is waited for no longer than `patience`.
    pub(super) fn new(
        patience: Duration,
        answer: impl Fn(&Q) -> A + Send + Sync + 'static,
    ) -> Self {
        let (questions, queue) = mpsc::sync_channel(QUEUE);
        let (answered, answers) = mpsc::channel();
        Self {
            answer: Arc::new(answer),
            patience,
            questions,
            queue: Arc::new(Mutex::new(queue)),
            answers,
            answered,
            open: HashSet::new(),
            threads: 0,
            impatient: None,
        }
    }

    /// From now on an answer is waited for no longer than this.
    pub(super) const fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Asks, unless that was asked already, and waits if there is hope. `keep` gets the
    /// answers that come meanwhile; those from before are to be taken first.
    pub(super) fn ask(&mut self, question: &Q, mut keep: impl FnMut(Q, A)) {
        if self.threads == 0 {
            self.start();
        }
        if !self.open.contains(question) {
            if self.threads == 0 || self.questions.try_send(question.clone()).is_err() {
                return;
            }
            self.open.insert(question.clone());
        }
        let now = Instant::now();
        if self.impatient.is_some_and(|until| now < until) {
            return;
        }
        let deadline = now + self.patience;
        while self.open.contains(question) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((answered, answer)) = self.answers.recv_timeout(left) else {
                self.impatient = Some(Instant::now() + self.patience * PAUSE_FACTOR);
                self.start();
                return;
            };
            self.open.remove(&answered);
            keep(answered, answer);
        }
    }

    /// Hands the answers that have come to `keep`.
    pub(super) fn take(&mut self, mut keep: impl FnMut(Q, A)) {
        while let Ok((question, answer)) = self.answers.try_recv() {
            self.open.remove(&question);
            keep(question, answer);
        }
    }

    /// Starts one more thread, which ends when nobody can ask any more.
    fn start(&mut self) {
        if self.threads == THREADS {
            return;
        }
        let (queue, answered) = (Arc::clone(&self.queue), self.answered.clone());
        let answer = Arc::clone(&self.answer);
        let run = move || {
            loop {
                let next = queue.lock().map(|queue| queue.recv());
                let Ok(Ok(question)) = next else {
                    return;
                };
                let answer = answer(&question);
                if answered.send((question, answer)).is_err() {
                    return;
                }
            }
        };
        match thread::Builder::new().spawn(run) {
            Ok(_) => self.threads += 1,
            Err(error) => log::warn!("look-ups wait: start a thread for them: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers that are held back until a word is sent for each.
    fn held(patience: Duration) -> (Asker<u32, u32>, Sender<()>) {
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let answer = move |question: &u32| {
            let _ = gate.lock().unwrap().recv();
            question * 2
        };
        (Asker::new(patience, answer), go)
    }

    #[test]
    fn an_answer_that_comes_in_time_is_waited_for() {
        let mut asker = Asker::new(Duration::from_mins(1), |question: &u32| question * 2);
        let mut got = Vec::new();
        for question in 1..=3 {
            asker.ask(&question, |question, answer| got.push((question, answer)));
        }
        assert_eq!(got, [(1, 2), (2, 4), (3, 6)]);
    }

    #[test]
    fn one_that_does_not_come_is_waited_for_once_and_taken_when_it_is_there() {
        let (mut asker, go) = held(Duration::from_millis(50));
        let mut got = Vec::new();
        for question in [7, 7, 8] {
            asker.ask(&question, |question, answer| got.push((question, answer)));
        }
        assert_eq!(got, []);
        // After the first wait in vain nothing is waited for; nothing is asked twice.
        assert!(asker.impatient.is_some());
        assert_eq!(asker.open.len(), 2);
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        let deadline = Instant::now() + Duration::from_mins(1);
        while got.len() < 2 && Instant::now() < deadline {
            asker.take(|question, answer| got.push((question, answer)));
            thread::yield_now();
        }
        got.sort_unstable();
        assert_eq!(got, [(7, 14), (8, 16)]);
        assert!(asker.open.is_empty());
    }

    #[test]
    fn questions_beyond_the_queue_stay_unasked() {
        let (mut asker, _go) = held(Duration::from_millis(1));
        for question in 0..2 * u32::try_from(QUEUE).unwrap() {
            asker.ask(&question, |_, _| ());
        }
        assert!(asker.open.len() <= QUEUE + THREADS, "{asker:?}");
        assert!(asker.threads <= THREADS);
    }
}
