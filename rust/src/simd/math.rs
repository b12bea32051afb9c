//! Elementary functions over [`Simd`].

use super::Simd;

/// [`exp_raised`] multiplies by 2^RAISE, so that sums may reach 2^-(126 + RAISE) below their reference before they underflow.
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

/// 2^RAISE e^z, for the difference z of a score to a larger one. The factor sits in the coefficients, so it costs nothing.
///
/// # Safety
/// `S` is available.
#[inline(always)]
pub unsafe fn exp_raised<S: Simd>(z: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { scaled_exp::<S>(z, f32::from_bits((127 + RAISE as u32) << 23)) }
}

/// e^z, 0 from about -104 on.
///
/// # Safety
/// `S` is available.
#[inline(always)]
pub unsafe fn exp<S: Simd>(z: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { scaled_exp::<S>(z, 1.0) }
}

/// unit · e^z. The product with log2(e) is taken in two parts: its rounding alone would cost |z| · 6e-8 of the result.
#[inline(always)]
unsafe fn scaled_exp<S: Simd>(z: S::V, unit: f32) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        // Below, the result is 0 anyway, and the product of a left-out score would have no remainder.
        let z = S::max(z, S::splat(-250.0));
        let n = S::round(S::mul(z, S::splat(std::f32::consts::LOG2_E)));
        reduced::<S>(over_ln2::<S>(z, n), n, unit)
    }
}

/// z log2(e) - n, rounded once.
///
/// # Safety
/// `S` is available.
#[inline(always)]
pub unsafe fn over_ln2<S: Simd>(z: S::V, n: S::V) -> S::V {
    const LOW: f32 = (std::f64::consts::LOG2_E - std::f32::consts::LOG2_E as f64) as f32;
    // SAFETY: the caller's promise.
    unsafe {
        let high = S::fma(z, S::splat(std::f32::consts::LOG2_E), S::sub(S::splat(0.0), n));
        S::fma(z, S::splat(LOW), high)
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

/// 2^n for integer-valued n, 0 below the range.
#[inline(always)]
pub fn pow2(n: f64) -> f64 {
    if n < -1022.0 { 0.0 } else { f64::from_bits(((n.min(1023.0) as i64 + 1023) as u64) << 52) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    /// (exp, exp_raised / 2^RAISE, softplus, sigmoid) of one value.
    struct All(f32);
    impl Kernel for All {
        type Out = [f32; 4];
        unsafe fn run<S: Simd, const MR: usize>(self) -> [f32; 4] {
            let mut out = [[0f32; 16]; 4];
            // SAFETY: 16 lanes are the most there are.
            unsafe {
                let z = S::splat(self.0);
                let (softplus, sigmoid) = softplus_sigmoid::<S>(z);
                for (lanes, v) in out.iter_mut().zip([exp::<S>(z), exp_raised::<S>(z), softplus, sigmoid]) {
                    S::store(lanes.as_mut_ptr(), v);
                }
            }
            [out[0][0], (f64::from(out[1][0]) * pow2(-f64::from(RAISE))) as f32, out[2][0], out[3][0]]
        }
    }

    #[test]
    fn functions_keep_their_relative_accuracy() {
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            // Two roundings where multiplication and addition are not fused.
            let fused = if isa == Isa::Portable { 4.0 } else { 1.0 };
            for step in 0..=4000 {
                let z = -80.0 + 0.04 * step as f32;
                let exact = f64::from(z).exp();
                let softplus = f64::from(z).max(0.0) + (-f64::from(z).abs()).exp().ln_1p();
                let [e, raised, s, p] = isa.run(All(z));
                let close = |name: &str, got: f32, want: f64, tolerance: f64| {
                    assert!(
                        (f64::from(got) / want - 1.0).abs() <= tolerance,
                        "{} {name}({z}): {got}, not {want}",
                        isa.name()
                    );
                };
                let size = f64::from(z.abs());
                close("exp", e, exact, fused * 1.3e-7 + if fused > 1.0 { 6e-8 * size } else { 0.0 });
                if z <= 0.0 {
                    close("exp_raised", raised, exact, fused * 1.3e-7 + if fused > 1.0 { 6e-8 * size } else { 0.0 });
                }
                close("softplus", s, softplus, fused * 4e-7 + if fused > 1.0 { 6e-8 * size } else { 0.0 });
                close(
                    "sigmoid",
                    p,
                    1.0 / (1.0 + (-f64::from(z)).exp()),
                    fused * 3e-7 + if fused > 1.0 { 6e-8 * size } else { 0.0 },
                );
            }
            let [e, raised, s, p] = isa.run(All(crate::pairs::LEFT_OUT));
            assert_eq!([e, raised, s, p], [0.0; 4], "{}", isa.name());
        }
    }
}
