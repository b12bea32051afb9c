//! AVX2 with FMA and F16C: 8 lanes, tiles of 6 x 16 (12 accumulators of the 16 registers).

use super::{Kernel, Simd};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx2;

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx2, 6>() }
}

type V = __m256;

#[inline(always)]
unsafe fn int(v: V) -> __m256i {
    // SAFETY: same bits; the features are the caller's promise (so in all of this file).
    unsafe { _mm256_castps_si256(v) }
}
#[inline(always)]
unsafe fn float(v: __m256i) -> V {
    // SAFETY: as above.
    unsafe { _mm256_castsi256_ps(v) }
}
/// The bfloat16 nearest to each finite lane, in its lower 16 bits.
#[inline(always)]
unsafe fn round_bf16(v: V) -> __m256i {
    // SAFETY: as above.
    unsafe {
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(int(v)), _mm256_set1_epi32(1));
        _mm256_srli_epi32::<16>(_mm256_add_epi32(_mm256_add_epi32(int(v), _mm256_set1_epi32(0x7fff)), odd))
    }
}
/// The lower and upper halves folded by `f`, twice more down to one lane.
#[inline(always)]
unsafe fn fold(v: V, f: impl Fn(__m128, __m128) -> __m128) -> f32 {
    // SAFETY: as above.
    unsafe {
        let q = f(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let d = f(q, _mm_movehl_ps(q, q));
        _mm_cvtss_f32(f(d, _mm_shuffle_ps::<1>(d, d)))
    }
}

// SAFETY (all blocks): the trait's contract, features and valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    type V = V;
    const W: usize = 8;
    const FUSES: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn round(a: V) -> V {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale2(v: V, n: V) -> V {
        unsafe {
            // In two steps: one factor of 2^-252 has no float32.
            let n = _mm256_min_ps(_mm256_max_ps(n, _mm256_set1_ps(-252.0)), _mm256_set1_ps(252.0));
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let pow2 = |n: __m256i| float(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
            _mm256_mul_ps(_mm256_mul_ps(v, pow2(half)), pow2(_mm256_sub_epi32(n, half)))
        }
    }
    #[inline(always)]
    unsafe fn sum(v: V) -> f32 {
        unsafe { fold(v, |a, b| _mm_add_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn max_lane(v: V) -> f32 {
        unsafe { fold(v, |a, b| _mm_max_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn min_lane(v: V) -> f32 {
        unsafe { fold(v, |a, b| _mm_min_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn gt(a: V, b: V) -> u32 {
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) as u32 }
    }
    #[inline(always)]
    unsafe fn select_gt(a: V, b: V, yes: V, no: V) -> V {
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
    }
    #[inline(always)]
    unsafe fn select_eq(a: V, b: V, yes: V, no: V) -> V {
        unsafe { _mm256_blendv_ps(no, yes, float(_mm256_cmpeq_epi32(int(a), int(b)))) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(a: V, b: V, c: V) -> V {
        unsafe {
            let low = |v: V| float(_mm256_slli_epi32::<16>(int(v)));
            let high = |v: V| float(_mm256_and_si256(int(v), _mm256_set1_epi32(0xffff_0000_u32 as i32)));
            _mm256_fmadd_ps(high(a), high(b), _mm256_fmadd_ps(low(a), low(b), c))
        }
    }
    #[inline(always)]
    unsafe fn dot_i8(a: V, b: V, c: V) -> V {
        unsafe {
            // maddubs would saturate: widen even and odd bytes to 16 bits.
            let byte = _mm256_set1_epi16(0xff);
            let (a0, a1) = (_mm256_and_si256(int(a), byte), _mm256_srli_epi16::<8>(int(a)));
            let (b0, b1) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(int(b))), _mm256_srai_epi16::<8>(int(b)));
            float(_mm256_add_epi32(_mm256_add_epi32(int(c), _mm256_madd_epi16(a0, b0)), _mm256_madd_epi16(a1, b1)))
        }
    }
    #[inline(always)]
    unsafe fn dot_u4(a: V, low: V, high: V, c: V) -> V {
        unsafe {
            // Pairs of products end at 2 · 15 · 128 in size, two pairs at 7,680: 16 bits hold them.
            let half = _mm256_set1_epi8(15);
            let (a0, a1) = (_mm256_and_si256(int(a), half), _mm256_and_si256(_mm256_srli_epi16::<4>(int(a)), half));
            let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(a0, int(low)), _mm256_maddubs_epi16(a1, int(high)));
            float(_mm256_add_epi32(int(c), _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))))
        }
    }
    const LOOKS_UP: bool = true;
    #[inline(always)]
    unsafe fn look_up(table: &[[u8; 16]], records: *const u8, stride: usize, which: &[u32]) -> [u16; 32] {
        unsafe { super::look_up::look_up(table, records, stride, which) }
    }
    #[inline(always)]
    unsafe fn sum_i32(v: V) -> i32 {
        unsafe {
            let q = _mm_add_epi32(_mm256_castsi256_si128(int(v)), _mm256_extracti128_si256::<1>(int(v)));
            let d = _mm_add_epi32(q, _mm_unpackhi_epi64(q, q));
            _mm_cvtsi128_si32(_mm_add_epi32(d, _mm_shuffle_epi32::<1>(d)))
        }
    }
    #[inline(always)]
    unsafe fn i32_to_f32(v: V) -> V {
        unsafe { _mm256_cvtepi32_ps(int(v)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: V) {
        unsafe {
            let b = round_bf16(v);
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256::<1>(b));
            _mm_storeu_si128(p as *mut __m128i, packed)
        }
    }
    #[inline(always)]
    unsafe fn pair_bf16(low: V, high: V) -> V {
        unsafe { float(_mm256_or_si256(round_bf16(low), _mm256_slli_epi32::<16>(round_bf16(high)))) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> V {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p as *const __m128i)) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: V) {
        unsafe { _mm_storeu_si128(p as *mut __m128i, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
}
