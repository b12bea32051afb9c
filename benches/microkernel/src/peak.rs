//! The ceiling of one core: multiply-adds on registers alone, in as many independent chains as a register tile has.

use cpu_time::ThreadTime;
use simtile_core::simd::{Isa, Kernel, NV, Simd};
use simtile_core::tile::Elem;
use std::hint::black_box;
use std::marker::PhantomData;

/// Steps per measurement, about a millisecond: shorter than a time slice, so that some of them run undisturbed.
const STEPS: usize = 120_000;
const MEASUREMENTS: usize = 250;

/// Multiply-adds of type `E`, `STEPS` times `MR · NV` vectors; returns operations per second (a multiply-add counts as two).
struct Peak<E>(PhantomData<E>);

impl<E: Elem> Kernel for Peak<E> {
    type Out = f64;
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) -> f64 {
        // SAFETY: `Isa::run` checked that S is available; no pointer is used.
        unsafe {
            // The bits of 1.0 as float32 are (0, 1) as bfloat16 and (0, 0, 128, 63) as bytes.
            let (a, b) = (black_box(S::splat(1.0)), black_box(S::splat(1.0)));
            let mut acc = black_box([[S::splat(0.0); NV]; MR]);
            let begin = ThreadTime::now();
            for _ in 0..STEPS {
                for row in &mut acc {
                    for lane in row {
                        *lane = E::step::<S>(a, b, *lane);
                    }
                }
            }
            black_box(acc);
            let multiply_adds = STEPS * MR * NV * S::W * E::PER_WORD;
            2.0 * multiply_adds as f64 / begin.elapsed().as_secs_f64()
        }
    }
}

/// Operations per second per core while `threads` cores are busy at once: the best measurement of each, for a ceiling is no average.
pub fn peak<E: Elem>(isa: Isa, threads: usize) -> f64 {
    let best = || (0..MEASUREMENTS).map(|_| isa.run(Peak::<E>(PhantomData))).fold(0.0, f64::max);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(best)).collect();
        let sum: f64 = workers.into_iter().map(|w| w.join().expect("a loop on registers")).sum();
        sum / threads as f64
    })
}
