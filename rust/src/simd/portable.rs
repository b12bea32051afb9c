//! The specification of [`Simd`], in plain Rust; also what runs where nothing better exists.

use super::Simd;
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub struct Portable;

const W: usize = 8;
type V = [f32; W];

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> V {
    std::array::from_fn(f)
}

/// 2^n for n in -126..=127.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

impl Simd for Portable {
    type V = V;
    const W: usize = W;
    const FUSES: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [x; W]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        // SAFETY: the caller's pointer is valid for W lanes.
        unsafe { (p as *const V).read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        // SAFETY: the caller's pointer is valid for W lanes.
        unsafe { (p as *mut V).write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        map(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        map(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        map(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        map(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        map(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        map(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        // Two roundings: `mul_add` is a library call where the hardware lacks it.
        map(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn round(a: V) -> V {
        map(|i| a[i].round_ties_even())
    }
    #[inline(always)]
    unsafe fn scale2(v: V, n: V) -> V {
        map(|i| {
            let n = n[i].clamp(-252.0, 252.0) as i32;
            let h = n >> 1;
            v[i] * pow2(h) * pow2(n - h)
        })
    }
    #[inline(always)]
    unsafe fn sum(v: V) -> f32 {
        ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]))
    }
    #[inline(always)]
    unsafe fn max_lane(v: V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn min_lane(v: V) -> f32 {
        v.into_iter().fold(f32::INFINITY, f32::min)
    }
    #[inline(always)]
    unsafe fn gt(a: V, b: V) -> u32 {
        (0..W).fold(0, |m, i| m | u32::from(a[i] > b[i]) << i)
    }
    #[inline(always)]
    unsafe fn select_gt(a: V, b: V, yes: V, no: V) -> V {
        map(|i| if a[i] > b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn select_eq(a: V, b: V, yes: V, no: V) -> V {
        map(|i| if a[i].to_bits() == b[i].to_bits() { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn dot_bf16(a: V, b: V, c: V) -> V {
        let low = |x: f32| f32::from_bits(x.to_bits() << 16);
        let high = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        map(|i| c[i] + low(a[i]) * low(b[i]) + high(a[i]) * high(b[i]))
    }
    #[inline(always)]
    unsafe fn dot_i8(a: V, b: V, c: V) -> V {
        map(|i| {
            let (a, b) = (a[i].to_bits().to_le_bytes(), b[i].to_bits().to_le_bytes());
            let dot: i32 = (0..4).map(|t| i32::from(a[t]) * i32::from(b[t] as i8)).sum();
            f32::from_bits((c[i].to_bits() as i32).wrapping_add(dot) as u32)
        })
    }
    #[inline(always)]
    unsafe fn dot_u4(a: V, low: V, high: V, c: V) -> V {
        map(|i| {
            let [a, low, high] = [a, low, high].map(|v| v[i].to_bits().to_le_bytes());
            let dot: i32 = (0..4)
                .map(|t| {
                    i32::from(a[t] & 15) * i32::from(low[t] as i8) + i32::from(a[t] >> 4) * i32::from(high[t] as i8)
                })
                .sum();
            f32::from_bits((c[i].to_bits() as i32).wrapping_add(dot) as u32)
        })
    }
    #[inline(always)]
    unsafe fn sum_i32(v: V) -> i32 {
        v.into_iter().fold(0, |sum, x| sum.wrapping_add(x.to_bits() as i32))
    }
    #[inline(always)]
    unsafe fn i32_to_f32(v: V) -> V {
        map(|i| v[i].to_bits() as i32 as f32)
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: V) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: the caller's pointer is valid for W lanes.
            unsafe { p.add(i).write(bf16::from_f32(x).to_bits()) }
        }
    }
    #[inline(always)]
    unsafe fn pair_bf16(low: V, high: V) -> V {
        map(|i| {
            f32::from_bits(
                u32::from(bf16::from_f32(low[i]).to_bits()) | u32::from(bf16::from_f32(high[i]).to_bits()) << 16,
            )
        })
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> V {
        // SAFETY: the caller's pointer is valid for W lanes.
        map(|i| unsafe { f16::from_bits(p.add(i).read()).to_f32() })
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: V) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: the caller's pointer is valid for W lanes.
            unsafe { p.add(i).write(f16::from_f32(x).to_bits()) }
        }
    }
}

/// [`Simd::weigh_ones`] where a word's ones are one instruction, or nothing better is known.
///
/// # Safety
/// That of the trait.
#[inline(always)]
pub(super) unsafe fn weigh_ones(
    records: *const u8,
    which: &[u32],
    p: *const u8,
    stride: usize,
    words: usize,
    sums: &mut [i32],
) {
    for (&record, sum) in which.iter().zip(sums) {
        let mut ones = [0; 3];
        for at in (0..8 * words).step_by(8) {
            // SAFETY: the caller's promise; words may lie anywhere.
            unsafe {
                let word = records.add(record as usize * stride + at).cast::<u64>().read_unaligned();
                for (t, ones) in ones.iter_mut().enumerate() {
                    *ones += (word & p.add(t * stride + at).cast::<u64>().read_unaligned()).count_ones() as i32;
                }
            }
        }
        *sum = ones[0] + 2 * ones[1] - 4 * ones[2];
    }
}

/// [`Simd::mark_new`]
///
/// # Safety
/// That of the trait.
#[inline(always)]
pub(super) unsafe fn mark_new(marks: *mut u32, places: *mut u32, count: usize) -> usize {
    let mut new = 0;
    for t in 0..count {
        // SAFETY: the caller's promise.
        unsafe {
            // No branch: which places were met, no processor could learn.
            let place = places.add(t).read();
            places.add(new).write(place);
            let (word, bit) = (marks.add(place as usize / 32), place % 32);
            new += (!*word >> bit & 1) as usize;
            *word |= 1 << bit;
        }
    }
    new
}

/// [`Simd::insert`]
///
/// # Safety
/// That of the trait.
#[inline(always)]
pub(super) unsafe fn insert(keys: *mut u64, len: usize, new: u64) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let at = std::slice::from_raw_parts(keys, len).partition_point(|&key| key < new);
        keys.add(at).copy_to(keys.add(at + 1), len - at);
        keys.add(at).write(new);
        at
    }
}

/// [`Simd::planes`]
///
/// # Safety
/// That of the trait.
#[inline(always)]
pub(super) unsafe fn planes(w: *const i8) -> [u64; 3] {
    let mut planes = [0; 3];
    for bit in 0..64 {
        // SAFETY: the caller's promise.
        let w = unsafe { *w.add(bit) } as u8;
        for (plane, bits) in planes.iter_mut().enumerate() {
            *bits |= u64::from(w >> plane & 1) << bit;
        }
    }
    planes
}
