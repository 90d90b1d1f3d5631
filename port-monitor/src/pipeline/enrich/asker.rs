//! Questions that may take long, answered by threads of their own: nobody waits for an
//! answer while there is something else to do.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

/// Questions without an answer; no more are asked.
const QUEUE: usize = 16_384;
/// Threads at most. One more is started each time a question takes long.
const THREADS: usize = 4;

/// Rings when there is an answer, whoever gave it.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    is_ringing: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self
            .is_ringing
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until it rings, if it has not since the last time, but not longer than `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let is_ringing = self
            .is_ringing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(is_ringing, timeout, |is_ringing| !*is_ringing);
        let (mut is_ringing, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *is_ringing = false;
    }
}

/// Who answers questions.
pub(crate) struct Asker<Q, A> {
    answer: Arc<dyn Fn(&Q) -> A + Send + Sync>,
    questions: Sender<Q>,
    queue: Arc<Mutex<Receiver<Q>>>,
    answers: Receiver<(Q, A)>,
    answered: Sender<(Q, A)>,
    bell: Arc<Bell>,
    /// Questions without an answer, and whether they were given up.
    open: HashMap<Q, bool>,
    given_up: usize,
    threads: usize,
}

impl<Q, A> fmt::Debug for Asker<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker")
            .field("open", &self.open.len())
            .field("given_up", &self.given_up)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl<Q, A> Asker<Q, A>
where
    Q: Clone + Eq + Hash + Send + 'static,
    A: Send + 'static,
{
    /// Questions are answered by `answer`; each answer rings the bell.
    pub(crate) fn new(bell: &Arc<Bell>, answer: impl Fn(&Q) -> A + Send + Sync + 'static) -> Self {
        // One with a limit would be allocated at once.
        let (questions, queue) = mpsc::channel();
        let (answered, answers) = mpsc::channel();
        Self {
            answer: Arc::new(answer),
            questions,
            queue: Arc::new(Mutex::new(queue)),
            answers,
            answered,
            bell: Arc::clone(bell),
            open: HashMap::new(),
            given_up: 0,
            threads: 0,
        }
    }

    /// The question like this one that has no answer yet.
    pub(crate) fn open(&self, question: &Q) -> Option<&Q> {
        self.open.get_key_value(question).map(|(open, _)| open)
    }

    /// Asks, unless that was asked already. Whether there is hope for an answer soon: not
    /// where this question was given up, or as many as there are threads.
    pub(crate) fn ask(&mut self, question: &Q) -> bool {
        if let Some(is_given_up) = self.open.get(question) {
            return !is_given_up && self.given_up < THREADS;
        }
        if self.threads == 0 {
            self.start();
        }
        let has_room = self.threads > 0 && self.open.len() < QUEUE;
        if !has_room || self.questions.send(question.clone()).is_err() {
            return false;
        }
        self.open.insert(question.clone(), false);
        self.given_up < THREADS
    }

    /// Answers take long: more threads are to work on the questions that are open.
    pub(crate) fn hurry(&mut self) {
        if !self.open.is_empty() {
            self.start();
        }
    }

    /// Nobody waits for the answer any more. Others are not to wait behind it.
    pub(crate) fn give_up(&mut self, question: &Q) {
        if let Some(is_given_up) = self.open.get_mut(question)
            && !*is_given_up
        {
            *is_given_up = true;
            self.given_up += 1;
            self.start();
        }
    }

    /// Hands the answers that have come to `keep`.
    pub(crate) fn take(&mut self, mut keep: impl FnMut(Q, A)) {
        if self.open.is_empty() {
            return;
        }
        while let Ok((question, answer)) = self.answers.try_recv() {
            let was_given_up = self.open.remove(&question).is_some_and(|given_up| given_up);
            self.given_up -= usize::from(was_given_up);
            keep(question, answer);
        }
    }

    /// Starts one more thread, which ends when nobody can ask any more.
    fn start(&mut self) {
        if self.threads == THREADS {
            return;
        }
        let (queue, answered) = (Arc::clone(&self.queue), self.answered.clone());
        let (answer, bell) = (Arc::clone(&self.answer), Arc::clone(&self.bell));
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
                bell.ring();
            }
        };
        match thread::Builder::new().name("look-ups".into()).spawn(run) {
            Ok(_) => self.threads += 1,
            Err(error) => log::warn!("look-ups wait: start a thread for them: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use crate::pipeline::enrich::asker::*;

    /// Answers that are held back until a word is sent for each.
    fn held() -> (Asker<u32, u32>, Sender<()>) {
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let answer = move |question: &u32| {
            let _ = gate.lock().unwrap().recv();
            question * 2
        };
        (Asker::new(&Arc::default(), answer), go)
    }

    /// As many answers as there are questions.
    fn answers(asker: &mut Asker<u32, u32>, count: usize) -> Vec<(u32, u32)> {
        let mut got = Vec::new();
        let deadline = Instant::now() + Duration::from_mins(1);
        while got.len() < count && Instant::now() < deadline {
            asker.bell.clone().wait(Duration::from_secs(1));
            asker.take(|question, answer| got.push((question, answer)));
        }
        got.sort_unstable();
        got
    }

    #[test]
    fn nobody_waits_and_nothing_is_asked_twice() {
        let (mut asker, go) = held();
        for question in [7, 7, 8] {
            assert!(asker.ask(&question));
        }
        assert_eq!(asker.open.len(), 2);
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        assert_eq!(answers(&mut asker, 2), [(7, 14), (8, 16)]);
        assert!(asker.open.is_empty());
    }

    #[test]
    fn what_was_given_up_keeps_no_other_waiting_and_is_answered_in_the_end() {
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let mut asker = Asker::new(&Arc::default(), move |question: &u32| {
            if *question == 0 {
                let _ = gate.lock().unwrap().recv();
            }
            question * 2
        });
        assert!(asker.ask(&0));
        asker.give_up(&0);
        assert!(!asker.ask(&0));
        assert!(asker.ask(&1));
        assert_eq!(answers(&mut asker, 1), [(1, 2)]);
        go.send(()).unwrap();
        assert_eq!(answers(&mut asker, 1), [(0, 0)]);
        assert_eq!(asker.given_up, 0);
    }

    #[test]
    fn where_every_thread_hangs_there_is_no_hope() {
        let (mut asker, _go) = held();
        let hung = u32::try_from(THREADS).unwrap();
        for question in 0..hung {
            assert!(asker.ask(&question));
            asker.give_up(&question);
        }
        assert!(!asker.ask(&hung));
    }

    #[test]
    fn questions_beyond_the_queue_stay_unasked() {
        let (mut asker, _go) = held();
        for question in 0..2 * u32::try_from(QUEUE).unwrap() {
            asker.ask(&question);
            asker.give_up(&question);
        }
        assert_eq!(asker.open.len(), QUEUE, "{asker:?}");
        assert!(asker.threads <= THREADS);
    }
}
