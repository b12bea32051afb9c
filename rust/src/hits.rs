//! The values of a tile that reach their thresholds, one after the other.

use crate::scan::PANEL;
use crate::simd::{MOST_LANES, NV, Simd};
use crate::tile::Acc;

/// Rows of the highest tile.
pub(crate) const MOST_ROWS: usize = 16;
/// Values of the largest tile.
const MOST: usize = MOST_ROWS * PANEL;

/// The numbers from 0 on.
const PLACES: [u32; MOST] = {
    let mut places = [0; MOST];
    let mut at = 0;
    while at < MOST {
        places[at] = at as u32;
        at += 1;
    }
    places
};

/// Which vectors' lanes pass, a mask for each of a tile.
pub(crate) type Masks = [[u32; NV]; MOST_ROWS];

/// A value of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    /// Row of the tile.
    pub(crate) row: usize,
    /// Column of the tile.
    pub(crate) column: usize,
    /// The value.
    pub(crate) value: f32,
}

/// Values of a tile. Room for one that is used again and again.
pub(crate) struct Hits {
    /// The tile's columns are two to this.
    log_width: u32,
    count: usize,
    places: [u32; MOST + MOST_LANES],
    values: [f32; MOST + MOST_LANES],
}

impl Hits {
    /// None.
    pub(crate) fn new() -> Hits {
        Hits { log_width: 0, count: 0, places: [0; MOST + MOST_LANES], values: [0.0; MOST + MOST_LANES] }
    }

    /// Those of `tile` that pass, row by row.
    ///
    /// # Safety
    /// `S` is available.
    #[inline(always)]
    pub(crate) unsafe fn gather<S: Simd, const MR: usize>(&mut self, tile: &Acc<S, MR>, masks: &Masks) {
        (self.log_width, self.count) = ((NV * S::W).ilog2(), 0);
        let mut lanes = [0f32; MOST_LANES];
        for (r, (row, masks)) in tile.iter().zip(masks).enumerate() {
            for (v, (values, &mask)) in row.iter().zip(masks).enumerate() {
                // Of the widest vectors there are few, and packing one costs no more than a branch that is foreseen wrongly.
                if S::W < MOST_LANES && mask == 0 {
                    continue;
                }
                // SAFETY: the caller's promise; no more values than the tile has, and room for one vector more.
                unsafe {
                    S::store(lanes.as_mut_ptr(), *values);
                    let place = (r * NV + v) * S::W;
                    S::pack(PLACES.as_ptr().add(place), mask, self.places.as_mut_ptr().add(self.count));
                    S::pack(lanes.as_ptr().cast(), mask, self.values.as_mut_ptr().add(self.count).cast());
                }
                self.count += mask.count_ones() as usize;
            }
        }
    }

    /// How many there are.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Number t of them.
    #[inline(always)]
    pub(crate) fn get(&self, t: usize) -> Hit {
        let place = self.places[t] as usize;
        Hit { row: place >> self.log_width, column: place & ((1 << self.log_width) - 1), value: self.values[t] }
    }

    /// Number t, of which the first `kept` remain, becomes one more of them.
    #[inline(always)]
    pub(crate) fn keep(&mut self, t: usize, kept: usize, value: f32) {
        (self.places[kept], self.values[kept]) = (self.places[t], value);
    }

    /// Leave the first of them.
    #[inline(always)]
    pub(crate) fn truncate(&mut self, count: usize) {
        self.count = count;
    }

    /// One after the other.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Hit> {
        (0..self.count).map(|t| self.get(t))
    }
}
