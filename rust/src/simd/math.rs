//! Elementary functions over [`Simd`].

use super::Simd;

/// [`exp_over`] may multiply by 2^RAISE, so that sums may reach 2^-(126 + RAISE) below their reference before they underflow.
pub const RAISE: f32 = 80.0;

/// 2^x: a polynomial of degree 6 on [-1/2, 1/2] (Lawson fit, 8e-8 relative with the rounding of float32), 0 below the range.
///
/// # Safety
/// `S` is available.
#[inline(always)]
pub unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let n = S::round(x);
        reduced::<S>(S::sub(x, n), n, 1.0)
    }
}

/// unit · 2^(f + n) for f in [-1/2, 1/2] and integer-valued n.
#[inline(always)]
unsafe fn reduced<S: Simd>(f: S::V, n: S::V, unit: f32) -> S::V {
    const C: [f32; 6] =
        [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_4, 0.000_153_533_62];
    // SAFETY: the caller's promise.
    unsafe {
        let mut p = S::splat(C[5] * unit);
        for c in [C[4], C[3], C[2], C[1], C[0], 1.0] {
            p = S::fma(p, f, S::splat(c * unit));
        }
        S::scale2(p, n)
    }
}

/// e^z, 0 from about -104 on.
///
/// # Safety
/// `S` is available.
#[inline(always)]
pub unsafe fn exp<S: Simd>(z: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { exp_over::<S, false>(z, S::splat(-NOTHING), S::splat(0.0)) }
}

/// Scores this far below the largest count as nothing.
pub const NOTHING: f32 = 250.0;

/// e^z / 2^exponent for an integer-valued exponent, which is given with its sign turned; times 2^RAISE if wanted (the factor sits in the
/// coefficients, so it costs nothing). `z` below `least` is taken as `least`: the product of a left-out score with log2(e) would have no
/// remainder.
///
/// That product is taken in two parts: its rounding alone would cost |z| · 6e-8 of the result.
///
/// # Safety
/// `S` is available.
#[inline(always)]
pub unsafe fn exp_over<S: Simd, const RAISED: bool>(z: S::V, least: S::V, minus_exponent: S::V) -> S::V {
    const LOW: f32 = (std::f64::consts::LOG2_E - std::f32::consts::LOG2_E as f64) as f32;
    let unit = if RAISED { f32::from_bits((127 + RAISE as u32) << 23) } else { 1.0 };
    // SAFETY: the caller's promise.
    unsafe {
        let z = S::max(z, least);
        // With the negated exponent at hand, neither product needs a negation.
        let minus_n = S::round(S::mul(z, S::splat(-std::f32::consts::LOG2_E)));
        let f = S::fma(z, S::splat(LOW), S::fma(z, S::splat(std::f32::consts::LOG2_E), minus_n));
        reduced::<S>(f, S::sub(minus_exponent, minus_n), unit)
    }
}

/// (softplus(z), sigmoid(z)) = (log(1 + e^z), 1 / (1 + e^-z)). Both keep their relative accuracy at either end:
/// log(1 + e) = 2 artanh(e / (2 + e)), a series of degree 9.
///
/// # Safety
/// `S` is available.
#[inline(always)]
pub unsafe fn softplus_sigmoid<S: Simd>(z: S::V) -> (S::V, S::V) {
    const C: [f32; 4] = [0.333_332_06, 0.200_108_5, 0.139_995_53, 0.140_123_19];
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        let e = exp::<S>(S::min(z, S::sub(zero, z)));
        let t = S::div(e, S::add(S::splat(2.0), e));
        let u = S::mul(t, t);
        let mut series = S::splat(C[3]);
        for c in [C[2], C[1], C[0], 1.0] {
            series = S::fma(series, u, S::splat(c));
        }
        let log1p = S::mul(S::add(t, t), series);
        let softplus = S::add(S::max(z, zero), log1p);
        let sigmoid = S::div(S::select_gt(z, zero, one, e), S::add(one, e));
        (softplus, sigmoid)
    }
}

/// 2^n in f64 for integer-valued n, 0 below the range.
#[inline(always)]
pub fn pow2(n: f32) -> f64 {
    if n < -1022.0 { 0.0 } else { f64::from_bits(((n.min(1023.0) as i64 + 1023) as u64) << 52) }
}
