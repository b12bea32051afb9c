//! AVX-512: 16 lanes, tiles of 12 x 32 (24 accumulators, 2 columns of B, A broadcast from memory).

use super::{Kernel, Simd};
use std::arch::x86_64::*;
use std::mem::transmute;

/// `DOT`: the processor has the BF16 and VNNI dot products, and counts ones.
#[derive(Clone, Copy)]
pub struct Avx512<const DOT: bool>;

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vpopcntdq,avx2,fma,f16c")]
pub unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx512<true>, 12>() }
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx512<false>, 12>() }
}

type V = __m512;

#[inline(always)]
unsafe fn int(v: V) -> __m512i {
    // SAFETY: same bits; the features are the caller's promise (so in all of this file).
    unsafe { _mm512_castps_si512(v) }
}
#[inline(always)]
unsafe fn float(v: __m512i) -> V {
    // SAFETY: as above.
    unsafe { _mm512_castsi512_ps(v) }
}
/// The bfloat16 nearest to each finite lane, in its lower 16 bits.
#[inline(always)]
unsafe fn round_bf16(v: V) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(int(v)), _mm512_set1_epi32(1));
        _mm512_srli_epi32::<16>(_mm512_add_epi32(_mm512_add_epi32(int(v), _mm512_set1_epi32(0x7fff)), odd))
    }
}

// SAFETY (all blocks): the trait's contract, features and valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const DOT: bool> Simd for Avx512<DOT> {
    type V = V;
    const W: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn round(a: V) -> V {
        unsafe { _mm512_roundscale_ps::<0>(a) }
    }
    #[inline(always)]
    unsafe fn scale2(v: V, n: V) -> V {
        unsafe { _mm512_scalef_ps(v, n) }
    }
    #[inline(always)]
    unsafe fn sum(v: V) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn max_lane(v: V) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    unsafe fn min_lane(v: V) -> f32 {
        unsafe { _mm512_reduce_min_ps(v) }
    }
    #[inline(always)]
    unsafe fn gt(a: V, b: V) -> u32 {
        unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b)) }
    }
    #[inline(always)]
    unsafe fn select_gt(a: V, b: V, yes: V, no: V) -> V {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes) }
    }
    #[inline(always)]
    unsafe fn select_eq(a: V, b: V, yes: V, no: V) -> V {
        unsafe { _mm512_mask_blend_ps(_mm512_cmpeq_epi32_mask(int(a), int(b)), no, yes) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(a: V, b: V, c: V) -> V {
        unsafe {
            if DOT {
                return _mm512_dpbf16_ps(c, transmute::<V, __m512bh>(a), transmute::<V, __m512bh>(b));
            }
            let low = |v: V| float(_mm512_slli_epi32::<16>(int(v)));
            let high = |v: V| float(_mm512_and_si512(int(v), _mm512_set1_epi32(0xffff_0000_u32 as i32)));
            _mm512_fmadd_ps(high(a), high(b), _mm512_fmadd_ps(low(a), low(b), c))
        }
    }
    #[inline(always)]
    unsafe fn dot_i8(a: V, b: V, c: V) -> V {
        unsafe {
            if DOT {
                return float(_mm512_dpbusd_epi32(int(c), int(a), int(b)));
            }
            // maddubs would saturate: widen even and odd bytes to 16 bits.
            let byte = _mm512_set1_epi16(0xff);
            let (a0, a1) = (_mm512_and_si512(int(a), byte), _mm512_srli_epi16::<8>(int(a)));
            let (b0, b1) = (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(int(b))), _mm512_srai_epi16::<8>(int(b)));
            float(_mm512_add_epi32(_mm512_add_epi32(int(c), _mm512_madd_epi16(a0, b0)), _mm512_madd_epi16(a1, b1)))
        }
    }
    #[inline(always)]
    unsafe fn dot_u4(a: V, low: V, high: V, c: V) -> V {
        unsafe {
            let half = _mm512_set1_epi8(15);
            let (a0, a1) = (_mm512_and_si512(int(a), half), _mm512_and_si512(_mm512_srli_epi16::<4>(int(a)), half));
            if DOT {
                return float(_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(int(c), a0, int(low)), a1, int(high)));
            }
            // Pairs of products end at 2 · 15 · 128 in size, two pairs at 7,680: 16 bits hold them.
            let pairs = _mm512_add_epi16(_mm512_maddubs_epi16(a0, int(low)), _mm512_maddubs_epi16(a1, int(high)));
            float(_mm512_add_epi32(int(c), _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))))
        }
    }
    #[inline(always)]
    unsafe fn weigh_ones(b: *const u8, p: *const u8, stride: usize, words: usize) -> i32 {
        unsafe {
            if !DOT {
                return super::portable::weigh_ones(b, p, stride, words);
            }
            let load = |p: *const u8| int(Self::load(p.cast()));
            let mut sums = _mm512_setzero_si512();
            for at in (0..8 * words).step_by(64) {
                let word = load(b.add(at));
                let ones = |t: usize| _mm512_popcnt_epi64(_mm512_and_si512(word, load(p.add(t * stride + at))));
                // Lanes of 64 bits would borrow from their upper halves: the sum is that of 32-bit lanes.
                let high = _mm512_sub_epi32(ones(1), _mm512_slli_epi32::<1>(ones(2)));
                sums = _mm512_add_epi32(sums, _mm512_add_epi32(ones(0), _mm512_slli_epi32::<1>(high)));
            }
            _mm512_reduce_add_epi32(sums)
        }
    }
    #[inline(always)]
    unsafe fn sum_i32(v: V) -> i32 {
        unsafe { _mm512_reduce_add_epi32(int(v)) }
    }
    #[inline(always)]
    unsafe fn i32_to_f32(v: V) -> V {
        unsafe { _mm512_cvtepi32_ps(int(v)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: V) {
        unsafe {
            let narrow = if DOT {
                transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))
            } else {
                _mm512_cvtepi32_epi16(round_bf16(v))
            };
            _mm256_storeu_si256(p as *mut __m256i, narrow)
        }
    }
    #[inline(always)]
    unsafe fn pair_bf16(low: V, high: V) -> V {
        unsafe {
            let bits = |v: V| {
                if DOT {
                    _mm512_cvtepu16_epi32(transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)))
                } else {
                    round_bf16(v)
                }
            };
            float(_mm512_or_si512(bits(low), _mm512_slli_epi32::<16>(bits(high))))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> V {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p as *const __m256i)) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: V) {
        unsafe { _mm256_storeu_si256(p as *mut __m256i, _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
}
