//! The k largest of a stream of values, without their places.

use crate::simd::{MOST_LANES, Simd};

/// The largest values so far.
pub(crate) struct Largest {
    k: usize,
    /// No more than k, in no order.
    values: Vec<f32>,
    /// With k values: what they reach and no others of those seen lie above.
    floor: f32,
}

/// Where [`Largest::add`] works: for lists of k values and strips of so many.
pub(crate) fn room(k: usize, strip: usize) -> Vec<f32> {
    vec![0.0; k + strip + MOST_LANES]
}

impl Largest {
    /// None yet.
    pub(crate) fn new(k: usize) -> Largest {
        Largest { k, values: Vec::new(), floor: if k == 0 { f32::INFINITY } else { f32::NEG_INFINITY } }
    }

    /// Those of `s`, the highest of which is `high`; nothing is NaN or infinite.
    ///
    /// # Safety
    /// `S` is available; `room` is for as many values.
    #[inline(always)]
    pub(crate) unsafe fn add<S: Simd>(&mut self, s: &[f32], high: f32, room: &mut [f32]) {
        if high <= self.floor {
            return;
        }
        let mut count = self.values.len();
        debug_assert!(room.len() >= count + s.len() + MOST_LANES);
        room[..count].copy_from_slice(&self.values);
        let whole = s.len() / S::W * S::W;
        for c in (0..whole).step_by(S::W) {
            // SAFETY: the vector lies within s; no more values than s has are kept, and there is room for one vector more.
            unsafe {
                let mask = S::gt(S::load(s.as_ptr().add(c)), S::splat(self.floor));
                S::pack(s.as_ptr().add(c).cast(), mask, room.as_mut_ptr().add(count).cast());
                count += mask.count_ones() as usize;
            }
        }
        for &v in s[whole..].iter().filter(|v| **v > self.floor) {
            room[count] = v;
            count += 1;
        }
        if count > self.k {
            // SAFETY: the caller's promise.
            self.floor = unsafe { keep_largest::<S>(room, count, self.k, (self.floor, high)) };
            count = self.k;
        } else if count == self.k {
            self.floor = room[..count].iter().copied().fold(f32::INFINITY, f32::min);
        }
        self.values.clear();
        self.values.reserve_exact(self.k);
        self.values.extend_from_slice(&room[..count]);
    }

    /// The largest first.
    pub(crate) fn into_sorted(mut self) -> Vec<f32> {
        self.values.sort_unstable_by(|a, b| b.total_cmp(a));
        self.values
    }
}

/// The bits of a float as an integer of the same order.
fn key(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

/// The float of a [`key`].
fn of_key(key: i32) -> f32 {
    f32::from_bits((key ^ ((key >> 31) as u32 >> 1) as i32) as u32)
}

/// How many of the first `count` values lie above `bound`; a vector behind them does not.
///
/// # Safety
/// `S` is available.
#[inline(always)]
unsafe fn above<S: Simd>(values: &[f32], count: usize, bound: f32) -> usize {
    let mut above = 0;
    for c in (0..count).step_by(S::W) {
        // SAFETY: the caller's promise; whole vectors lie within the values.
        above += unsafe { S::gt(S::load(values.as_ptr().add(c)), S::splat(bound)) }.count_ones() as usize;
    }
    above
}

/// The k largest of `count > k > 0` values, all between `low` and `high`, come to the front. Returns a value that they reach, and no more
/// than k lie above. It is found by bisection: to count a few hundred values takes less than to move them.
///
/// # Safety
/// `S` is available; there is room for a vector behind the values.
#[inline(always)]
unsafe fn keep_largest<S: Simd>(values: &mut [f32], count: usize, k: usize, (low, high): (f32, f32)) -> f32 {
    values[count..count + S::W].fill(f32::NEG_INFINITY);
    // More than k lie above the one, no more than k above the other.
    let (mut low, mut high, mut found) = (key(low) - 1, key(high), 0);
    while found != k && low.abs_diff(high) > 1 {
        let middle = ((i64::from(low) + i64::from(high)) >> 1) as i32;
        // SAFETY: the caller's promise.
        let more = unsafe { above::<S>(values, count, of_key(middle)) };
        if more > k {
            low = middle;
        } else {
            (high, found) = (middle, more);
        }
    }
    let (bound, mut kept) = (of_key(high), 0);
    for c in (0..count).step_by(S::W) {
        // SAFETY: as above; what is written has been read before.
        unsafe {
            let from = values.as_mut_ptr().add(c);
            let mask = S::gt(S::load(from), S::splat(bound));
            S::pack(from.cast(), mask, values.as_mut_ptr().add(kept).cast());
            kept += mask.count_ones() as usize;
        }
    }
    // Where many are equal, so are all that are missing.
    values[kept..k].fill(bound);
    bound
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};
    use proptest::prelude::*;

    struct Strips<'a> {
        values: &'a [f32],
        strip: usize,
        k: usize,
    }

    impl Kernel for Strips<'_> {
        type Out = Vec<f32>;
        #[inline(always)]
        unsafe fn run<S: Simd, const MR: usize>(self) -> Vec<f32> {
            let (mut largest, mut room) = (Largest::new(self.k), room(self.k, self.strip));
            for s in self.values.chunks(self.strip) {
                let high = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                // SAFETY: the room is for these.
                unsafe { largest.add::<S>(s, high, &mut room) }
            }
            largest.into_sorted()
        }
    }

    proptest! {
        #[test]
        fn the_largest_of_any_strips_on_every_instruction_set(
            values in proptest::collection::vec(
                prop_oneof![4 => -1f32..1.0, 1 => Just(0.5), 1 => Just(-0.0), 1 => Just(0.0), 1 => proptest::num::f32::NORMAL],
                0..400
            ),
            strip in 1usize..150,
            k in 0usize..140,
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted.truncate(k);
            for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                prop_assert_eq!(&isa.run(Strips { values: &values, strip, k }), &sorted, "{:?}", isa);
            }
        }
    }
}
