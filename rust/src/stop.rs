//! Leaving a computation unfinished: it is no longer wanted, or the system has no more to give.
//!
//! The thread that called asks from time to time whether to go on, which is how Ctrl-C is seen; its team follows. Work is left by
//! unwinding without a panic: no hook runs, nothing is printed. What is asked never changes a result.

use std::cell::RefCell;
use std::hint::black_box;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// What [`std::panic::catch_unwind`] finds when work was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The question of [`watched`] was answered with yes.
    Unwanted,
    /// So many bytes were not to be had; 0: not known which.
    Memory(usize),
    /// So many threads were not to be had.
    Threads(usize),
    /// An earlier change was left half done.
    Broken,
    /// Another thread of the team stopped, and knows why.
    Elsewhere,
}

impl Stopped {
    /// Leave.
    pub fn leave(self) -> ! {
        resume_unwind(Box::new(self))
    }
}

/// Between two questions: what waits for an answer does not notice it, and asking, which may have to wait for Python's lock, is rare.
pub(crate) const PERIOD: Duration = Duration::from_millis(50);

/// Set by an allocator that has just given out the last it had; where there is none, never.
pub(crate) static EXHAUSTED: AtomicBool = AtomicBool::new(false);

/// Leave with [`Stopped::Memory`] if the last memory was given out: between steps that may make many small vectors.
#[inline(always)]
pub fn memory_left() {
    if EXHAUSTED.load(Ordering::Relaxed) {
        Stopped::Memory(0).leave()
    }
}

/// What a thread looks at between blocks.
enum Watch {
    /// The calling thread: whether to stop, and when to ask next.
    Asks(fn() -> bool, Instant),
    /// A thread of its team.
    Follows(Arc<AtomicBool>),
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Puts the watch of an outer call back, also when work is left.
struct Restore(Option<Watch>);

impl Drop for Restore {
    fn drop(&mut self) {
        WATCH.set(self.0.take());
    }
}

/// Do `work`, leaving it with [`Stopped::Unwanted`] soon after `stop` says so. `stop` is called on this thread alone.
pub fn watched<T>(stop: fn() -> bool, work: impl FnOnce() -> T) -> T {
    let _restore = Restore(WATCH.replace(Some(Watch::Asks(stop, Instant::now() + PERIOD))));
    work()
}

/// Do `work` on a thread of a team, leaving it when `stopped` is set.
pub(crate) fn following<T>(stopped: Arc<AtomicBool>, work: impl FnOnce() -> T) -> T {
    let _restore = Restore(WATCH.replace(Some(Watch::Follows(stopped))));
    work()
}

/// Called between blocks of work that take some microseconds at least.
///
/// # Panics
/// Never; it unwinds with [`Stopped`] when the work is to be left.
pub fn checkpoint() {
    memory_left();
    // The question may lead to another computation on this thread: it is asked when nothing is borrowed.
    let due = WATCH.with_borrow_mut(|watch| match watch {
        None => None,
        Some(Watch::Follows(stopped)) => stopped.load(Ordering::Relaxed).then_some(None),
        Some(Watch::Asks(stop, next)) => {
            let now = Instant::now();
            if now < *next {
                return None;
            }
            *next = now + PERIOD;
            Some(Some(*stop))
        }
    });
    match due {
        None => {}
        Some(None) => Stopped::Elsewhere.leave(),
        Some(Some(stop)) if stop() => Stopped::Unwanted.leave(),
        Some(Some(_)) => {}
    }
}

/// Whether `len` elements could be had just now.
pub(crate) fn has_room_for<T>(len: usize) -> bool {
    let mut tried = Vec::<T>::new();
    let held = tried.try_reserve_exact(len).is_ok();
    // A vector that nobody looks at need not be made.
    black_box(&tried);
    held
}

/// Whether this process can be refused memory at all while the machine has some: it has a limit, or the system counts what is asked for.
pub(crate) fn is_limited() -> bool {
    #[cfg(target_os = "linux")]
    {
        static COUNTED: LazyLock<bool> = LazyLock::new(|| {
            std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2")
        });
        [libc::RLIMIT_AS, libc::RLIMIT_DATA].into_iter().any(|resource| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: it writes to `limit` alone.
            unsafe { libc::getrlimit(resource, &mut limit) != 0 || limit.rlim_cur != libc::RLIM_INFINITY }
        }) || *COUNTED
    }
    #[cfg(not(target_os = "linux"))]
    true
}

/// Leave where `len` elements cannot be had: a vector that finds no room ends the process. Asked before the vectors whose size follows
/// that of the arguments.
pub fn room_for<T>(len: usize) {
    if !has_room_for::<T>(len) {
        Stopped::Memory(len.saturating_mul(size_of::<T>())).leave()
    }
}

/// `vec![value; len]` where there is room for it.
pub fn filled<T: Clone>(value: T, len: usize) -> Vec<T> {
    room_for::<T>(len);
    vec![value; len]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize;

    fn why(work: impl FnOnce()) -> Option<Stopped> {
        catch_unwind(AssertUnwindSafe(work)).err().map(|reason| *reason.downcast::<Stopped>().expect("no panic"))
    }

    #[test]
    fn work_that_is_not_wanted_ends_on_every_thread() {
        for threads in [1, 3] {
            let units = AtomicUsize::new(0);
            let endless = || {
                team::run(threads, |team| {
                    team.for_each(usize::MAX / 2, |_| {
                        units.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(1));
                    });
                });
            };
            assert_eq!(why(|| watched(|| true, endless)), Some(Stopped::Unwanted));
            assert!(units.load(Ordering::Relaxed) > 0);
        }
    }

    #[test]
    fn the_caller_asks_while_it_waits_for_a_unit_of_another() {
        let slow = || {
            team::run(2, |team| {
                team.for_each(2, |unit| {
                    // Whichever thread has it leaves when the other one does, or asks itself.
                    if unit == 1 {
                        loop {
                            checkpoint();
                        }
                    }
                });
            });
        };
        assert_eq!(why(|| watched(|| true, slow)), Some(Stopped::Unwanted));
    }

    #[test]
    fn an_inner_computation_leaves_the_outer_watch_in_place() {
        assert_eq!(why(|| watched(|| false, || watched(|| false, || ()))), None);
        let outer = || {
            assert_eq!(why(|| watched(|| false, || Stopped::Broken.leave())), Some(Stopped::Broken));
            loop {
                checkpoint();
            }
        };
        assert_eq!(why(|| watched(|| true, outer)), Some(Stopped::Unwanted));
    }

    #[test]
    fn memory_that_is_not_there_is_no_end_of_the_process() {
        assert_eq!(why(|| drop(filled(0u64, usize::MAX / 16))), Some(Stopped::Memory(usize::MAX / 16 * 8)));
        assert_eq!(why(|| room_for::<u64>(usize::MAX)), Some(Stopped::Memory(usize::MAX)));
    }
}
