//! A few threads that walk through the same phases together.
//!
//! Threads are scoped to the call: nothing is left behind that a `fork` could break, and no pool competes with torch's.

use crate::stop::{PERIOD, Stopped, checkpoint, following, has_room_for, is_limited};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Bytes of a thread's stack: Rust's own choice.
const STACK: usize = 2 << 20;
/// Where less is left beside all stacks, threads start one after the other, and nobody works, and takes memory, before all have.
const PLENTY: usize = 256 << 20;
/// What has to be left for one of them. The C library allocates a little as a thread starts, and ends the process where it cannot; it
/// asks the system for it, whose answer is seen only by asking for more than the 32 MiB that may come from memory freed before.
const STARTING: usize = 33 << 20;

/// One thread's view of the team.
pub struct Team<'a> {
    shared: &'a State,
    base: Cell<usize>,
    /// Whether this is the thread that called, which is the one to ask whether to go on.
    caller: bool,
}

struct State {
    threads: usize,
    next: AtomicUsize,
    stopped: Arc<AtomicBool>,
    gate: Mutex<Gate>,
    turn: Condvar,
}

#[derive(Default)]
struct Gate {
    waiting: usize,
    round: usize,
    /// Why the first thread that left did so.
    reason: Option<Box<dyn Any + Send>>,
}

/// Run `work` on `threads` threads, the caller being one of them.
///
/// # Panics
/// When `work` panics on any of them, or leaves with [`Stopped`] (the others are released first).
pub fn run(threads: usize, work: impl Fn(&Team) + Sync) {
    let threads = threads.max(1);
    let state = State {
        threads,
        next: AtomicUsize::new(0),
        stopped: Arc::default(),
        gate: Mutex::default(),
        turn: Condvar::new(),
    };
    // Asking for so much takes as long as starting a quarter of a thread: only where the answer can be no.
    let wanted = threads.saturating_mul(STACK).saturating_add(PLENTY);
    let scarce = threads > 1 && is_limited() && !has_room_for::<u8>(wanted);
    let member = |caller: bool| {
        let team = Team { shared: &state, base: Cell::new(0), caller };
        let begin = || {
            if scarce {
                team.wait();
            }
            work(&team);
        };
        if let Err(reason) = catch_unwind(AssertUnwindSafe(begin)) {
            state.stop(reason);
        }
    };
    thread::scope(|scope| {
        for started in 1..threads {
            let joining = || following(state.stopped.clone(), || member(false));
            if scarce && !has_room_for::<u8>(STARTING) {
                return state.stop(Box::new(Stopped::Memory(STARTING)));
            }
            if thread::Builder::new().stack_size(STACK).spawn_scoped(scope, joining).is_err() {
                return state.stop(Box::new(Stopped::Threads(threads)));
            }
            while scarce && state.gate().waiting < started {
                thread::yield_now();
            }
        }
        member(true);
    });
    let gate = state.gate.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(reason) = gate.reason {
        resume_unwind(reason);
    }
}

impl State {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, reason: Box<dyn Any + Send>) {
        self.gate().reason.get_or_insert(reason);
        self.stopped.store(true, Ordering::Relaxed);
        self.turn.notify_all();
    }
}

impl Team<'_> {
    /// Call `f` once for each of `0..units`, spread over the team as threads become free, and wait until all are done.
    /// Which thread takes which unit is left open: units must not depend on each other.
    pub fn for_each(&self, units: usize, mut f: impl FnMut(usize)) {
        let base = self.base.get();
        loop {
            let unit = self.shared.next.fetch_add(1, Ordering::Relaxed) - base;
            if unit >= units {
                break;
            }
            if self.shared.stopped.load(Ordering::Relaxed) {
                Stopped::Elsewhere.leave();
            }
            checkpoint();
            f(unit);
        }
        // Every thread overshoots exactly once, before anyone passes the gate.
        self.base.set(base + units + self.shared.threads);
        self.wait();
    }

    fn wait(&self) {
        if self.shared.threads == 1 {
            return;
        }
        let mut gate = self.shared.gate();
        gate.waiting += 1;
        if gate.waiting == self.shared.threads {
            gate.waiting = 0;
            gate.round += 1;
            self.shared.turn.notify_all();
        } else {
            let round = gate.round;
            while gate.round == round && gate.reason.is_none() {
                let turn = &self.shared.turn;
                if self.caller {
                    gate = turn.wait_timeout(gate, PERIOD).unwrap_or_else(PoisonError::into_inner).0;
                    drop(gate);
                    checkpoint();
                    gate = self.shared.gate();
                } else {
                    gate = turn.wait(gate).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if gate.reason.is_some() {
            drop(gate);
            Stopped::Elsewhere.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_every_phase_runs_once_and_phases_do_not_overlap() {
        for threads in [1, 2, 5] {
            let counts: Vec<AtomicUsize> = (0..7).map(|_| AtomicUsize::new(0)).collect();
            run(threads, |team| {
                for phase in 0..100 {
                    team.for_each(counts.len(), |u| {
                        assert_eq!(counts[u].fetch_add(1, Ordering::SeqCst), phase);
                    });
                }
            });
            assert!(counts.iter().all(|c| c.load(Ordering::SeqCst) == 100));
        }
    }

    #[test]
    #[should_panic(expected = "panicked")]
    fn a_panic_releases_the_others() {
        run(3, |team| team.for_each(3, |u| assert!(u != 1, "unit 1 panicked")));
    }
}
