//! A few threads that walk through the same phases together.
//!
//! Threads are scoped to the call: nothing is left behind that a `fork` could break, and no pool competes with torch's.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// One thread's view of the team.
pub struct Team<'a> {
    shared: &'a State,
    base: Cell<usize>,
}

struct State {
    threads: usize,
    next: AtomicUsize,
    gate: Mutex<Gate>,
    turn: Condvar,
}

#[derive(Default)]
struct Gate {
    waiting: usize,
    round: usize,
    broken: bool,
}

/// Run `work` on `threads` threads, the caller being one of them.
///
/// # Panics
/// When `work` panics on any of them (the others are released first).
pub fn run(threads: usize, work: impl Fn(&Team) + Sync) {
    let threads = threads.max(1);
    let state = State { threads, next: AtomicUsize::new(0), gate: Mutex::default(), turn: Condvar::new() };
    let member = || {
        let team = Team { shared: &state, base: Cell::new(0) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&team))) {
            state.gate.lock().unwrap_or_else(PoisonError::into_inner).broken = true;
            state.turn.notify_all();
            resume_unwind(panic);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(member);
        }
        member();
    });
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
        let mut gate = self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.waiting += 1;
        if gate.waiting == self.shared.threads {
            gate.waiting = 0;
            gate.round += 1;
            self.shared.turn.notify_all();
        } else {
            let round = gate.round;
            while gate.round == round && !gate.broken {
                gate = self.shared.turn.wait(gate).unwrap_or_else(PoisonError::into_inner);
            }
        }
        assert!(!gate.broken, "another thread of the team panicked");
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
