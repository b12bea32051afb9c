//! Sums of small weights over the ones of bit strings.

use super::Simd;

/// Bits of a weight, two's complement.
const BITS: usize = 3;
/// What a table's entries are raised by, so that none is negative.
const RAISE: u8 = 16;
/// Words that a table goes up to: sums of its entries, at most 28, have 16 bits.
const MOST_WORDS: usize = u16::MAX as usize / (16 * 28);

/// All bits where the number has bit t.
const ONES: [[u8; 16]; 4] = {
    let mut ones = [[0; 16]; 4];
    let mut at = 0;
    while at < 64 {
        ones[at / 16][at % 16] = if (at % 16) >> (at / 16) & 1 == 1 { u8::MAX } else { 0 };
        at += 1;
    }
    ones
};

/// A weight of −4..=3 for each position of a bit string, in the form that an instruction set wants.
pub struct Weights {
    /// Bytes of a record that begins with a bit string, a multiple of a cache line.
    stride: usize,
    /// 64-bit words of a bit string.
    words: usize,
    /// Bits of the weights, one plane of `stride` bytes after another, 0 beyond `words`.
    planes: Vec<u64>,
    /// For every half byte of a bit string, padded to 16 bytes, the sum of its ones' weights at each of its values, raised.
    table: Vec<[u8; 16]>,
}

impl Weights {
    /// For strings of `words` words, in records of `stride` bytes.
    pub fn new(words: usize, stride: usize) -> Weights {
        Weights { stride, words, planes: vec![0; BITS * stride / 8], table: vec![[RAISE; 16]; 32 * words.div_ceil(2)] }
    }

    /// These weights, one a position; 0 for those that are missing. For [`Weights::sums`] under the same `S`.
    ///
    /// # Safety
    /// `S` is there.
    #[inline(always)]
    pub unsafe fn set<S: Simd>(&mut self, weights: &[i8]) {
        if self.tabled::<S>() {
            for (entries, w) in self.table.iter_mut().zip(weights.chunks(4)) {
                let w: [u8; 4] = std::array::from_fn(|t| w.get(t).map_or(0, |&w| w as u8));
                for (value, entry) in entries.iter_mut().enumerate() {
                    let of = |t: usize| w[t] & ONES[t][value];
                    *entry = RAISE.wrapping_add(of(0)).wrapping_add(of(1)).wrapping_add(of(2)).wrapping_add(of(3));
                }
            }
            return;
        }
        let stride = self.stride / 8;
        for (word, weights) in weights.chunks(64).enumerate() {
            let mut padded = [0; 64];
            padded[..weights.len()].copy_from_slice(weights);
            // SAFETY: `S` is the caller's promise; there are 64.
            let planes: [u64; BITS] = unsafe { S::planes(padded.as_ptr()) };
            for (plane, bits) in planes.into_iter().enumerate() {
                self.planes[plane * stride + word] = bits;
            }
        }
    }

    /// For each of `which` the sum of weights over the ones of that record's string.
    ///
    /// # Safety
    /// `S` is there; `records` points to all of these records.
    #[inline(always)]
    pub unsafe fn sums<S: Simd>(&self, records: *const u8, which: &[u32], sums: &mut [i32]) {
        let raised = i32::from(RAISE) * self.table.len() as i32;
        if self.tabled::<S>() {
            for (which, sums) in which.chunks(32).zip(sums.chunks_mut(32)) {
                // SAFETY: the caller's promise; a record has the whole bytes of the table.
                let raw = unsafe { S::look_up(&self.table, records, self.stride, which) };
                sums.iter_mut().zip(raw).for_each(|(sum, raw)| *sum = i32::from(raw) - raised);
            }
            return;
        }
        let planes = self.planes.as_ptr().cast();
        // SAFETY: the caller's promise; planes are as long as records.
        unsafe { S::weigh_ones(records, which, planes, self.stride, self.words, sums) };
    }

    #[inline(always)]
    fn tabled<S: Simd>(&self) -> bool {
        S::LOOKS_UP && self.words <= MOST_WORDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    struct Sums<'a> {
        weights: &'a [i8],
        strings: &'a [u8],
        stride: usize,
        which: &'a [u32],
    }

    impl Kernel for Sums<'_> {
        type Out = Vec<i32>;
        #[inline(always)]
        unsafe fn run<S: Simd, const MR: usize>(self) -> Vec<i32> {
            let mut weights = Weights::new(self.weights.len().div_ceil(64), self.stride);
            let mut sums = vec![0; self.which.len()];
            // SAFETY: `S` is the caller's promise; the test's records are there.
            unsafe {
                weights.set::<S>(self.weights);
                weights.sums::<S>(self.strings.as_ptr(), self.which, &mut sums);
            }
            sums
        }
    }

    #[test]
    fn sums_are_those_of_a_loop_over_positions_on_every_instruction_set() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        // The last is beyond what tables hold.
        for positions in [1usize, 63, 64, 130, 384, 400, 1000, 9_400] {
            let stride = (positions.div_ceil(64) * 8 + 16usize).next_multiple_of(64);
            // Extreme weights alone would show an overflow.
            for extreme in [None, Some(-4), Some(3)] {
                let weights: Vec<i8> = (0..positions).map(|_| extreme.unwrap_or((random() % 8) as i8 - 4)).collect();
                let strings: Vec<u8> =
                    (0..70 * stride).map(|_| if extreme.is_some() { 255 } else { random() as u8 }).collect();
                for count in [1, 5, 16, 31, 32, 33, 64, 69] {
                    let which: Vec<u32> = (0..count).map(|_| (random() % 70) as u32).collect();
                    let bit = |record: u32, j: usize| strings[record as usize * stride + j / 8] >> (j % 8) & 1 == 1;
                    let wanted: Vec<i32> = which
                        .iter()
                        .map(|&r| (0..positions).filter(|&j| bit(r, j)).map(|j| i32::from(weights[j])).sum())
                        .collect();
                    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                        let sums = Sums { weights: &weights, strings: &strings, stride, which: &which };
                        assert_eq!(isa.run(sums), wanted, "{positions} {extreme:?} {count} {}", isa.name());
                    }
                }
            }
        }
    }
}
