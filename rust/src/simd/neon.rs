//! NEON: 4 lanes, tiles of 8 x 8 (16 accumulators of the 32 registers).

use super::{Kernel, Simd};
use half::f16;
use std::arch::aarch64::*;

#[derive(Clone, Copy)]
pub struct Neon;

/// # Safety
/// None beyond the kernel's own: every aarch64 has NEON.
pub unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Neon, 8>() }
}

type V = float32x4_t;

#[inline(always)]
unsafe fn int(v: V) -> int32x4_t {
    // SAFETY: same bits (so in all of this file).
    unsafe { vreinterpretq_s32_f32(v) }
}
#[inline(always)]
unsafe fn word(v: V) -> uint32x4_t {
    // SAFETY: as above.
    unsafe { vreinterpretq_u32_f32(v) }
}
/// The bfloat16 nearest to each finite lane, in its lower 16 bits.
#[inline(always)]
unsafe fn round_bf16(v: V) -> uint32x4_t {
    // SAFETY: as above.
    unsafe {
        let odd = vandq_u32(vshrq_n_u32::<16>(word(v)), vdupq_n_u32(1));
        vshrq_n_u32::<16>(vaddq_u32(vaddq_u32(word(v), vdupq_n_u32(0x7fff)), odd))
    }
}

// SAFETY (all blocks): the trait's contract, valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Neon {
    type V = V;
    const W: usize = 4;
    const FUSES: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: V) -> V {
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    unsafe fn scale2(v: V, n: V) -> V {
        unsafe {
            let n = vcvtnq_s32_f32(vminq_f32(vmaxq_f32(n, vdupq_n_f32(-252.0)), vdupq_n_f32(252.0)));
            let half = vshrq_n_s32::<1>(n);
            let pow2 = |n: int32x4_t| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))));
            vmulq_f32(vmulq_f32(v, pow2(half)), pow2(vsubq_s32(n, half)))
        }
    }
    #[inline(always)]
    unsafe fn sum(v: V) -> f32 {
        unsafe { vaddvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn max_lane(v: V) -> f32 {
        unsafe { vmaxvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn min_lane(v: V) -> f32 {
        unsafe { vminvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn gt(a: V, b: V) -> u32 {
        unsafe { vaddvq_u32(vandq_u32(vcgtq_f32(a, b), vld1q_u32([1u32, 2, 4, 8].as_ptr()))) }
    }
    #[inline(always)]
    unsafe fn select_gt(a: V, b: V, yes: V, no: V) -> V {
        unsafe { vbslq_f32(vcgtq_f32(a, b), yes, no) }
    }
    #[inline(always)]
    unsafe fn select_eq(a: V, b: V, yes: V, no: V) -> V {
        unsafe { vbslq_f32(vceqq_s32(int(a), int(b)), yes, no) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(a: V, b: V, c: V) -> V {
        unsafe {
            let low = |v: V| vreinterpretq_f32_u32(vshlq_n_u32::<16>(word(v)));
            let high = |v: V| vreinterpretq_f32_u32(vandq_u32(word(v), vdupq_n_u32(0xffff_0000)));
            vfmaq_f32(vfmaq_f32(c, low(a), low(b)), high(a), high(b))
        }
    }
    #[inline(always)]
    unsafe fn dot_i8(a: V, b: V, c: V) -> V {
        unsafe {
            // Without the dot-product extension: widen to 16 bits, multiply into 32, add neighbours.
            let (a, b) = (vreinterpretq_u8_f32(a), vreinterpretq_s8_f32(b));
            let a0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a)));
            let a1 = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(a)));
            let (b0, b1) = (vmovl_s8(vget_low_s8(b)), vmovl_s8(vget_high_s8(b)));
            let pairs = |a: int16x8_t, b: int16x8_t| {
                vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_s16(vget_high_s16(a), vget_high_s16(b)))
            };
            vreinterpretq_f32_s32(vaddq_s32(int(c), vpaddq_s32(pairs(a0, b0), pairs(a1, b1))))
        }
    }
    #[inline(always)]
    unsafe fn dot_u4(a: V, low: V, high: V, c: V) -> V {
        unsafe {
            let a = vreinterpretq_u8_f32(a);
            let (a0, a1) = (vandq_u8(a, vdupq_n_u8(15)), vshrq_n_u8::<4>(a));
            Self::dot_i8(vreinterpretq_f32_u8(a1), high, Self::dot_i8(vreinterpretq_f32_u8(a0), low, c))
        }
    }
    #[inline(always)]
    unsafe fn weigh_ones(records: *const u8, which: &[u32], p: *const u8, stride: usize, words: usize, to: &mut [i32]) {
        for (&record, to) in which.iter().zip(to) {
            unsafe {
                let mut sums = vdupq_n_s32(0);
                for at in (0..8 * words).step_by(16) {
                    let word = vld1q_u8(records.add(record as usize * stride + at));
                    let ones = |t: usize| {
                        let both = vandq_u8(word, vld1q_u8(p.add(t * stride + at)));
                        vreinterpretq_s32_u32(vpaddlq_u16(vpaddlq_u8(vcntq_u8(both))))
                    };
                    let high = vsubq_s32(ones(1), vshlq_n_s32::<1>(ones(2)));
                    sums = vaddq_s32(sums, vaddq_s32(ones(0), vshlq_n_s32::<1>(high)));
                }
                *to = vaddvq_s32(sums);
            }
        }
    }
    #[inline(always)]
    unsafe fn sum_i32(v: V) -> i32 {
        unsafe { vaddvq_s32(int(v)) }
    }
    #[inline(always)]
    unsafe fn i32_to_f32(v: V) -> V {
        unsafe { vcvtq_f32_s32(int(v)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: V) {
        unsafe { vst1_u16(p, vmovn_u32(round_bf16(v))) }
    }
    #[inline(always)]
    unsafe fn pair_bf16(low: V, high: V) -> V {
        unsafe { vreinterpretq_f32_u32(vorrq_u32(round_bf16(low), vshlq_n_u32::<16>(round_bf16(high)))) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> V {
        unsafe { vld1q_f32(std::array::from_fn::<f32, 4, _>(|i| f16::from_bits(p.add(i).read()).to_f32()).as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: V) {
        unsafe {
            let mut lanes = [0f32; 4];
            vst1q_f32(lanes.as_mut_ptr(), v);
            for (i, x) in lanes.into_iter().enumerate() {
                p.add(i).write(f16::from_f32(x).to_bits());
            }
        }
    }
}
