//! AVX-512: 16 lanes, tiles of 12 x 32 (24 accumulators, 2 columns of B, A broadcast from memory).

use super::{KEYS, Kernel, Simd};
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

/// Blocks of sorted keys from which a search for the place, and moving what follows, is faster than going through them.
const MOST_BLOCKS: usize = 32;

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

/// In every quarter, the sums of both halves of a's quarter, then of b's.
#[inline(always)]
unsafe fn add_halves(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)) }
}
/// The sums of four 32-bit integers over the quarters, as many as there is room for.
#[inline(always)]
unsafe fn store_four(v: __m512i, to: &mut [i32]) {
    // SAFETY: as above.
    unsafe {
        let v = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
        let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        match to {
            [_, _, _, _] => _mm_storeu_si128(to.as_mut_ptr().cast(), v),
            _ => to.copy_from_slice(&transmute::<__m128i, [i32; 4]>(v)[..to.len()]),
        }
    }
}
/// What a record's ones weigh, in words of 64 bits, whose lower halves are then those of 32; see [`Simd::weigh_ones`].
#[inline(always)]
unsafe fn weigh(record: *const u8, p: *const u8, stride: usize, words: usize) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let mut sums = _mm512_setzero_si512();
        for at in (0..8 * words).step_by(64) {
            let word = _mm512_loadu_si512(record.add(at).cast());
            let mut ones = [_mm512_setzero_si512(); 3];
            for (t, ones) in ones.iter_mut().enumerate() {
                let plane = _mm512_loadu_si512(p.add(t * stride + at).cast());
                *ones = _mm512_popcnt_epi64(_mm512_and_si512(word, plane));
            }
            let high = _mm512_sub_epi64(ones[1], _mm512_slli_epi64::<1>(ones[2]));
            sums = _mm512_add_epi64(sums, _mm512_add_epi64(ones[0], _mm512_slli_epi64::<1>(high)));
        }
        sums
    }
}

// SAFETY (all blocks): the trait's contract, features and valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const DOT: bool> Simd for Avx512<DOT> {
    type V = V;
    const W: usize = 16;
    const FUSES: bool = true;

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
    unsafe fn planes(w: *const i8) -> [u64; 3] {
        unsafe {
            let w = int(Self::load(w.cast()));
            [
                _mm512_test_epi8_mask(w, _mm512_set1_epi8(1)),
                _mm512_test_epi8_mask(w, _mm512_set1_epi8(2)),
                _mm512_test_epi8_mask(w, _mm512_set1_epi8(4)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn weigh_ones(
        records: *const u8,
        which: &[u32],
        p: *const u8,
        stride: usize,
        words: usize,
        sums: &mut [i32],
    ) {
        unsafe {
            if !DOT {
                return super::portable::weigh_ones(records, which, p, stride, words, sums);
            }
            for (which, sums) in which.chunks(4).zip(sums.chunks_mut(4)) {
                // The last again and again where there are no more.
                let record = |r: usize| records.add(which[r.min(which.len() - 1)] as usize * stride);
                let (a, b) = (weigh(record(0), p, stride, words), weigh(record(1), p, stride, words));
                let ab = _mm512_mask_shuffle_epi32::<0xa0>(a, 0xaaaa, b);
                let (c, d) = (weigh(record(2), p, stride, words), weigh(record(3), p, stride, words));
                let cd = _mm512_mask_shuffle_epi32::<0xa0>(c, 0xaaaa, d);
                store_four(add_halves(ab, cd), sums);
            }
        }
    }
    #[inline(always)]
    unsafe fn sum_i32(v: V) -> i32 {
        unsafe { _mm512_reduce_add_epi32(int(v)) }
    }
    #[inline(always)]
    unsafe fn sums_i32<const N: usize>(v: [V; N]) -> [i32; N] {
        let mut sums = [0; N];
        unsafe {
            for (to, v) in sums.chunks_mut(4).zip(v.chunks(4)) {
                if let [a, b, c, d] = *v {
                    let (a, b, c, d) = (int(a), int(b), int(c), int(d));
                    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
                    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
                    store_four(add_halves(ab, cd), to);
                } else {
                    for (to, v) in to.iter_mut().zip(v) {
                        *to = Self::sum_i32(*v);
                    }
                }
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn load_columns(records: *const u8, stride: usize, which: *const u32) -> [V; 4] {
        unsafe {
            // Rows k, k + 4, k + 8 and k + 12 in the quarters of vector k.
            let mut rows = [_mm512_setzero_ps(); 4];
            for (k, v) in rows.iter_mut().enumerate() {
                let row = |t: usize| records.add(*which.add(4 * t + k) as usize * stride).cast::<f32>();
                *v = _mm512_castps128_ps512(_mm_loadu_ps(row(0)));
                *v = _mm512_insertf32x4::<1>(*v, _mm_loadu_ps(row(1)));
                *v = _mm512_insertf32x4::<2>(*v, _mm_loadu_ps(row(2)));
                *v = _mm512_insertf32x4::<3>(*v, _mm_loadu_ps(row(3)));
            }
            let [a, b, c, d] = rows;
            let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let (ab, ab_high) = (_mm512_castps_pd(ab), _mm512_castps_pd(ab_high));
            let (cd, cd_high) = (_mm512_castps_pd(cd), _mm512_castps_pd(cd_high));
            [
                _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)),
                _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn pack(from: *const u32, mask: u32, to: *mut u32) {
        unsafe {
            let packed = _mm512_maskz_compress_epi32(mask as u16, _mm512_loadu_si512(from.cast()));
            _mm512_storeu_si512(to.cast(), packed);
        }
    }
    #[inline(always)]
    unsafe fn mark_new(marks: *mut u32, places: *mut u32, count: usize) -> usize {
        unsafe {
            let mut new = 0;
            for from in (0..count).step_by(16) {
                let which = _mm512_loadu_si512(places.add(from).cast());
                let found = _mm512_i32gather_epi32::<4>(_mm512_srli_epi32::<5>(which), marks.cast());
                let bit = _mm512_sllv_epi32(_mm512_set1_epi32(1), _mm512_and_si512(which, _mm512_set1_epi32(31)));
                let mask = _mm512_testn_epi32_mask(found, bit) & ((1u32 << 16.min(count - from)) - 1) as u16;
                Self::pack(places.add(from), mask.into(), places.add(new));
                new += mask.count_ones() as usize;
            }
            for t in 0..new {
                let place = *places.add(t);
                *marks.add(place as usize / 32) |= 1 << (place % 32);
            }
            new
        }
    }
    #[inline(always)]
    unsafe fn insert(keys: *mut u64, len: usize, new: u64) -> usize {
        unsafe {
            if len > MOST_BLOCKS * KEYS {
                return super::portable::insert(keys, len, new);
            }
            // From the last block to the one where it belongs, every key becomes the smaller of itself and the larger of the one before
            // it and the new one. The one before comes from the block that was loaded: a load of what lies across two stores would
            // have to wait for both.
            let key = _mm512_set1_epi64(new as i64);
            let mut from = len / KEYS * KEYS;
            loop {
                let block = keys.add(from);
                let old = _mm512_loadu_si512(block.cast());
                let last = _mm512_set1_epi64(*block.sub(1) as i64);
                let before = _mm512_max_epu64(_mm512_alignr_epi64::<7>(old, last), key);
                _mm512_storeu_si512(block.cast(), _mm512_min_epu64(old, before));
                let smaller = _mm512_cmplt_epu64_mask(old, key);
                if smaller != 0 || from == 0 {
                    return from + smaller.count_ones() as usize;
                }
                from -= KEYS;
            }
        }
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
