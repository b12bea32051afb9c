//! Sums of products of bytes that lie in rows, several pairs of rows at a time.

use super::Simd;

/// Σ u v over `len` bytes of each pair, a multiple of a cache line. What is the same for all is loaded once.
///
/// # Safety
/// `S` is there; all point to `len` bytes.
#[inline(always)]
pub unsafe fn dot_bytes<S: Simd, const N: usize>(u: [*const u8; N], v: [*const i8; N], len: usize) -> [i32; N] {
    let step = 4 * S::W;
    // SAFETY: the caller's promise, and a cache line is a multiple of every vector.
    unsafe {
        let mut sums = [S::splat(0.0); N];
        for at in (0..len).step_by(step) {
            for t in 0..N {
                sums[t] = S::dot_i8(S::load(u[t].add(at).cast()), S::load(v[t].add(at).cast()), sums[t]);
            }
        }
        S::sums_i32(sums)
    }
}

/// Σ u v likewise, where bytes have two u each, for `len` v and as many behind them.
///
/// # Safety
/// `S` is there; u point to `len` bytes, a multiple of a cache line, v to twice as many.
#[inline(always)]
pub unsafe fn dot_half_bytes<S: Simd, const N: usize>(u: [*const u8; N], v: [*const i8; N], len: usize) -> [i32; N] {
    let step = 4 * S::W;
    // SAFETY: as above.
    unsafe {
        let mut sums = [S::splat(0.0); N];
        for at in (0..len).step_by(step) {
            for t in 0..N {
                let (low, high) = (S::load(v[t].add(at).cast()), S::load(v[t].add(len + at).cast()));
                sums[t] = S::dot_u4(S::load(u[t].add(at).cast()), low, high, sums[t]);
            }
        }
        S::sums_i32(sums)
    }
}
