//! Runs things side by side, as many as there is room for.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

use anyhow::{Result, bail};

/// What `run` makes of each, in their order. They start in that order, each as soon as
/// there is as much of `room` left as it `takes`; what takes more has all of it.
pub(crate) fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    room: u32,
    takes: impl Fn(&T) -> u32,
    run: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let left = Mutex::new(room);
    let ended = Condvar::new();
    thread::scope(|scope| {
        let start = |item| {
            let share = takes(item).min(room);
            let left_now = left.lock().unwrap_or_else(PoisonError::into_inner);
            let enough = ended.wait_while(left_now, |left| *left < share);
            *enough.unwrap_or_else(PoisonError::into_inner) -= share;
            let (left, ended, run) = (&left, &ended, &run);
            scope.spawn(move || {
                let result = run(item);
                *left.lock().unwrap_or_else(PoisonError::into_inner) += share;
                ended.notify_all();
                result
            })
        };
        let running: Vec<_> = items.iter().map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<R>>| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| bail!("run a guest: a thread panicked"))
        };
        running.into_iter().map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use anyhow::ensure;

    use super::*;

    #[test]
    fn what_runs_side_by_side_ends_in_order() {
        let slowest_first = [30, 10, 0];
        let results = side_by_side(
            &slowest_first,
            2,
            |_| 1,
            |&millis| {
                thread::sleep(Duration::from_millis(millis));
                Ok(millis)
            },
        );
        assert_eq!(results.unwrap(), slowest_first);
    }

    #[test]
    fn no_more_runs_at_a_time_than_there_is_room_for() {
        let running = AtomicU32::new(0);
        let most = AtomicU32::new(0);
        // The last one takes more than there is, and runs alone.
        let sizes = [1, 1, 2, 1, 2, 7];
        let results = side_by_side(
            &sizes,
            3,
            |&size| size,
            |&size| {
                let now = running.fetch_add(size, Ordering::SeqCst) + size;
                assert!(now <= 3 || now == 7, "{now} at a time");
                most.fetch_max(now, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(5));
                running.fetch_sub(size, Ordering::SeqCst);
                Ok(())
            },
        );
        assert_eq!(results.unwrap().len(), sizes.len());
        assert_eq!(most.into_inner(), 7);
    }

    #[test]
    fn one_that_fails_fails_all() {
        let result = side_by_side(
            &[1, 0, 1],
            2,
            |_| 1,
            |&count| {
                ensure!(count > 0, "nothing");
                Ok(())
            },
        );
        assert_eq!(result.unwrap_err().to_string(), "nothing");
    }
}
