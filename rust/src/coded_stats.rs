//! [`crate::stats`] of scores as a first pass sees them: products of 8-bit codes, with the heavy coordinates, scales and biases in f32.

use crate::buffer::{Buffer, Shared};
use crate::error::ArgumentError;
use crate::exact::Metric;
use crate::largest;
use crate::moments::{Moments, Stats};
use crate::passed::Passed;
use crate::quant::MAX_HEAVY;
use crate::scan::{Columns, Product, Query, values};
use crate::simd::{Isa, Kernel, NV, Simd};
use crate::stop::checkpoint;
use crate::store::ExactStore;
use crate::strip::{STRIP, scores_are_finite};
use crate::team;
use crate::tile::{Matrix, pack_panels};
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows of a unit; a multiple of every tile's rows.
const ROWS: usize = 240;
const STRIDE: usize = STRIP + 16;

/// Where a thread works.
struct Rooms {
    /// For the rows of a unit.
    workspace: Buffer,
    /// For a tile's.
    strip: Buffer,
    moments: Vec<f32>,
}

/// A few rows against all columns.
struct Unit<'a, E> {
    x: Matrix<'a, E>,
    heavy: Matrix<'a, f32>,
    queries: &'a [Query],
    columns: Columns<'a>,
    betas: &'a [f32],
    rooms: &'a mut Rooms,
    moments: &'a mut [Moments],
}

impl<E: Product> Kernel for Unit<'_, E> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) {
        let (k, m, h) = (self.x.words(), self.x.rows, self.heavy.columns);
        let (panels, strip) = (self.rooms.workspace.as_mut_ptr(), self.rooms.strip.as_mut_ptr());
        // SAFETY: the workspace holds the rows, the strip a tile's; columns are rounded up to whole panels.
        unsafe {
            pack_panels(&self.x, 0, m, MR, panels);
            let heavy = panels.add(m.next_multiple_of(MR) * k);
            pack_panels(&self.heavy, 0, m, MR, heavy);
            for j0 in (self.columns.from..self.columns.to).step_by(STRIP) {
                checkpoint();
                let live = STRIP.min(self.columns.to - j0);
                for (p, i) in (0..m).step_by(MR).enumerate() {
                    let queries = &self.queries[i..m.min(i + MR)];
                    let (a, heavy) = (panels.add(p * MR * k), heavy.add(p * MR * h));
                    for c in (0..live).step_by(NV * S::W) {
                        let b = self.columns.panel(j0 + c, k);
                        let tile = values::<S, E, MR>((k, a, b), (h, heavy), &self.columns, j0 + c, queries);
                        for (r, (row, query)) in tile.iter().zip(queries).enumerate() {
                            let unit = S::splat(1.0 / query.weight);
                            for (v, values) in row.iter().enumerate() {
                                S::store(strip.add(r * STRIDE + c + v * S::W), S::mul(*values, unit));
                            }
                        }
                    }
                    for (r, moments) in self.moments[i..m.min(i + MR)].iter_mut().enumerate() {
                        let scores = std::slice::from_raw_parts(strip.add(r * STRIDE), live);
                        moments.add::<S>(scores, self.betas, &mut self.rooms.moments);
                    }
                }
            }
        }
    }
}

impl ExactStore {
    /// Statistics of the scores of each row with all stored vectors, as the first pass sees them: over codes, scores are some 1/2000 of the
    /// norms off. `k` scores are kept. The same bits for any number of threads.
    ///
    /// # Errors
    /// Values that are not finite, or too large or small for a first pass or their scores; squared distances; a pass along directions; more results than memory.
    ///
    /// # Panics
    /// When the rows have another number of columns.
    pub fn stats(
        &self,
        rows: Matrix<f32>,
        betas: &[f32],
        k: usize,
        threads: usize,
        isa: Isa,
    ) -> Result<Stats, ArgumentError> {
        assert_eq!(rows.columns, self.d);
        rows.check_finite("rows")?;
        let wrong = |message: &str| Err(ArgumentError::Value(message.into()));
        if self.metric == Metric::SquaredL2 || self.directions.is_some() {
            return wrong("stats: wanted a store of inner products or cosines, whose codes are along its coordinates");
        }
        if self.outliers || !self.bounds.iter().flatten().all(|b| b.is_finite()) {
            return wrong("vectors: too large or too small for a first pass");
        }
        let scale = self.scale.iter().flatten().fold(1.0, |most: f32, a| most.max(a.abs()));
        if self.metric == Metric::InnerProduct && !scores_are_finite(&rows, &self.vectors(), scale) {
            return wrong("rows, vectors: wanted finite scores");
        }
        let unbounded = AtomicBool::new(false);
        let unit = |u: usize, moments: Shared<Moments>, rooms: &mut Rooms| {
            let (i0, i1) = (u * ROWS, rows.rows.min((u + 1) * ROWS));
            let passed = Passed::new(self, rows, (i0, i1), isa);
            if passed.queries.iter().any(|q| q.error == f32::INFINITY) {
                unbounded.store(true, Ordering::Relaxed);
                return;
            }
            // SAFETY: every row belongs to one unit.
            let moments = unsafe { std::slice::from_raw_parts_mut(moments.at(i0), i1 - i0) };
            if self.codes {
                isa.run(self.unit(passed.codes(self), &passed, betas, rooms, moments));
            } else {
                isa.run(self.unit(passed.floats(self), &passed, betas, rooms, moments));
            }
        };
        let stats = Stats::collect((rows.rows, self.n), betas, k, |moments| {
            team::run(threads, |team| {
                let mut rooms = Rooms {
                    workspace: Buffer::new((ROWS.min(rows.rows) + 16) * (self.d + MAX_HEAVY)),
                    strip: Buffer::new(16 * STRIDE),
                    moments: largest::room(k.min(self.n), STRIP),
                };
                team.for_each(rows.rows.div_ceil(ROWS), |u| unit(u, moments, &mut rooms));
            });
        })?;
        if unbounded.into_inner() { wrong("rows: too large or too small for a first pass") } else { Ok(stats) }
    }

    fn unit<'a, E: Product>(
        &'a self,
        x: Matrix<'a, E>,
        passed: &'a Passed<'_>,
        betas: &'a [f32],
        rooms: &'a mut Rooms,
        moments: &'a mut [Moments],
    ) -> Unit<'a, E> {
        Unit {
            x,
            heavy: Matrix::new(&passed.heavy, x.rows, self.extra()),
            queries: &passed.queries,
            columns: self.packed(0, self.n),
            betas,
            rooms,
            moments,
        }
    }
}
