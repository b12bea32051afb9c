//! A random rotation in O(d log d): it spreads a vector's length evenly over its coordinates, as short codes want it.
//!
//! Rounds of random signs followed by a Walsh–Hadamard transform of the first or of the last p coordinates, p the largest power of two
//! that is at most d [1]. Additions and products of single numbers in a fixed order, and no fused ones: the same bits on every
//! processor.
//!
//! [1] Ailon & Chazelle, The fast Johnson–Lindenstrauss transform, SIAM J. Comput. 39, 2009; the alternating windows for a d that is no
//! power of two follow RaBitQ's reference code, Gao & Long, arXiv:2405.12497.

const ROUNDS: usize = 4;

/// SplitMix64 [Steele et al. 2014]: the next of a sequence that files depend on.
pub(super) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A rotation of d coordinates, given by d and a seed.
pub(super) struct Rotation {
    d: usize,
    /// Coordinates of a transform.
    window: usize,
    /// ROUNDS x d, random signs; where a window reaches, over √window.
    signs: Vec<f32>,
}

impl Rotation {
    pub(super) fn new(d: usize, seed: u64) -> Rotation {
        let window = 1 << d.ilog2();
        let unit = 1.0 / (window as f64).sqrt() as f32;
        let mut state = seed;
        let mut signs = Vec::with_capacity(ROUNDS * d);
        for round in 0..ROUNDS {
            let from = if round % 2 == 0 { 0 } else { d - window };
            for j in 0..d {
                let size = if (from..from + window).contains(&j) { unit } else { 1.0 };
                signs.push(if next_random(&mut state) >> 63 == 0 { size } else { -size });
            }
        }
        Rotation { d, window, signs }
    }

    /// Rotate `x` (d) in place.
    #[inline(always)]
    pub(super) fn apply(&self, x: &mut [f32]) {
        for (round, signs) in self.signs.chunks_exact(self.d).enumerate() {
            for (x, sign) in x.iter_mut().zip(signs) {
                *x *= sign;
            }
            let from = if round % 2 == 0 { 0 } else { self.d - self.window };
            hadamard(&mut x[from..from + self.window]);
        }
    }
}

/// The Walsh–Hadamard transform of `x`.
#[inline(always)]
fn hadamard(x: &mut [f32]) {
    let mut stride = x.len() / 2;
    while stride > 0 && (stride >= 8 || x.len() < 8) {
        for pair in x.chunks_exact_mut(2 * stride) {
            let (a, b) = pair.split_at_mut(stride);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        stride /= 2;
    }
    // Strides within a vector, which the compiler makes shuffles of.
    for x in x.as_chunks_mut::<8>().0 {
        let y: [f32; 8] = std::array::from_fn(|i| if i & 4 == 0 { x[i] + x[i + 4] } else { x[i - 4] - x[i] });
        let z: [f32; 8] = std::array::from_fn(|i| if i & 2 == 0 { y[i] + y[i + 2] } else { y[i - 2] - y[i] });
        *x = std::array::from_fn(|i| if i & 1 == 0 { z[i] + z[i + 1] } else { z[i - 1] - z[i] });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_angles_are_kept_and_one_coordinate_is_spread_over_all() {
        for d in [1, 2, 3, 5, 8, 50, 64, 100, 384, 1000] {
            let rotation = Rotation::new(d, 7);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let mut x: Vec<f32> = (0..d).map(|j| if j == d / 3 { 1.0 } else { 0.0 }).collect();
            let mut y: Vec<f32> = (0..d).map(|j| (j as f32).sin()).collect();
            let before = [dot(&x, &x), dot(&x, &y), dot(&y, &y)];
            rotation.apply(&mut x);
            rotation.apply(&mut y);
            for (got, wanted) in [dot(&x, &x), dot(&x, &y), dot(&y, &y)].into_iter().zip(before) {
                assert!((got - wanted).abs() <= 1e-5 * before[2].max(1.0), "{d}: {got} {wanted}");
            }
            if d >= 50 {
                let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(f64::from(largest) < 6.0 / (d as f64).sqrt(), "{d}: {largest}");
            }
        }
    }
}
