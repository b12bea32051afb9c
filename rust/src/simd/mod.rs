//! One vector interface, five instruction sets, chosen at run time.
//!
//! Kernels are written once against [`Simd`] and are compiled for each instruction set inside a function that carries the
//! `target_feature`s ([`Isa::run`]). Every function on the way down is `inline(always)`, so that the intrinsics meet their features.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod bytes;
#[cfg(target_arch = "x86_64")]
mod look_up;
pub mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
pub mod signs;

use crate::error::ArgumentError;

/// Vectors a register tile is wide: a tile is `MR` rows of `NV * W` columns.
pub const NV: usize = 2;
/// Keys that [`Simd::insert`] may write beyond those that there are.
pub const KEYS: usize = 8;
/// Lanes of the widest vector.
pub const MOST_LANES: usize = 16;

/// A vector of `W` lanes of 32 bits. Lanes are f32 unless the function says words.
///
/// # Safety
/// All functions need the instruction set to be there, and pointers to be valid for `W` lanes; no alignment is needed.
#[allow(missing_docs, clippy::missing_safety_doc)]
pub trait Simd: Copy + Send + Sync + 'static {
    type V: Copy;
    /// Lanes.
    const W: usize;
    /// Whether a product and a sum are one instruction, of f64 too.
    const FUSES: bool;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, in one rounding where the hardware has it.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// v * 2^n for integer-valued n of any size; 0 where the result underflows.
    unsafe fn scale2(v: Self::V, n: Self::V) -> Self::V;
    unsafe fn sum(v: Self::V) -> f32;
    unsafe fn max_lane(v: Self::V) -> f32;
    unsafe fn min_lane(v: Self::V) -> f32;
    /// Bit l is set where a > b in lane l.
    unsafe fn gt(a: Self::V, b: Self::V) -> u32;
    /// Where a > b: yes, else no.
    unsafe fn select_gt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Where the words of a and b are equal: yes, else no.
    unsafe fn select_eq(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Words: c + Σ of the two bfloat16 products in each lane.
    unsafe fn dot_bf16(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Words: c + Σ of the four (unsigned a) * (signed b) byte products in each lane, in 32-bit integers.
    unsafe fn dot_i8(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Words: c + integers whose sum over all lanes is that of the products of a's lower half bytes with the bytes of `low` and of the
    /// upper ones with `high`, half bytes unsigned, bytes signed.
    unsafe fn dot_u4(a: Self::V, low: Self::V, high: Self::V, c: Self::V) -> Self::V;
    /// Of the bytes of 64 weights, bits 0, 1 and 2.
    #[inline(always)]
    unsafe fn planes(w: *const i8) -> [u64; 3] {
        // SAFETY: the caller's promise.
        unsafe { portable::planes(w) }
    }
    /// |b∧p₀| + 2 |b∧p₁| − 4 |b∧p₂| for every record b of `which`; |·| is the number of ones in the first `words` words of 64 bits; p₀, p₁ and
    /// p₂ begin `stride` bytes from each other, at `p`. All have `stride` bytes, a multiple of a vector's, and the p are 0 beyond those
    /// words.
    #[inline(always)]
    unsafe fn weigh_ones(
        records: *const u8,
        which: &[u32],
        p: *const u8,
        stride: usize,
        words: usize,
        sums: &mut [i32],
    ) {
        // SAFETY: the caller's promise.
        unsafe { portable::weigh_ones(records, which, p, stride, words, sums) }
    }
    /// Whether tables beat counting ones here, so that there is a `look_up`.
    const LOOKS_UP: bool = false;
    /// For each of `which`, 1 to 32 records of `stride` bytes at `records`, the sum over its half bytes of their entries in `table`, whose
    /// length is a multiple of 32. Sums fit in 16 bits, those of eight entries in 8.
    unsafe fn look_up(_table: &[[u8; 16]], _records: *const u8, _stride: usize, _which: &[u32]) -> [u16; 32] {
        unreachable!("asked of an instruction set that does not look up")
    }
    /// Words as 32-bit integers: their sum.
    unsafe fn sum_i32(v: Self::V) -> i32;
    /// Words as 32-bit integers: the sum of each vector.
    #[inline(always)]
    unsafe fn sums_i32<const N: usize>(v: [Self::V; N]) -> [i32; N] {
        let mut sums = [0; N];
        for (sum, v) in sums.iter_mut().zip(v) {
            // SAFETY: the caller's promise.
            *sum = unsafe { Self::sum_i32(v) };
        }
        sums
    }
    /// Four numbers of each of `W` records, `stride` bytes apart and chosen by `which`: lane l of vector c is number c of record l.
    #[inline(always)]
    unsafe fn load_columns(records: *const u8, stride: usize, which: *const u32) -> [Self::V; 4] {
        let mut columns = [[0f32; MOST_LANES]; 4];
        // SAFETY: the caller's promise, and there are `W` lanes in a column.
        unsafe {
            for l in 0..Self::W {
                let row = records.add(which.add(l).read() as usize * stride).cast::<[f32; 4]>().read_unaligned();
                for (column, number) in columns.iter_mut().zip(row) {
                    column[l] = number;
                }
            }
            let [a, b, c, d] = columns;
            [Self::load(a.as_ptr()), Self::load(b.as_ptr()), Self::load(c.as_ptr()), Self::load(d.as_ptr())]
        }
    }
    /// Those of `W` words at `from` whose bit in `mask` is set, in order; `W` words may be written.
    #[inline(always)]
    unsafe fn pack(from: *const u32, mask: u32, to: *mut u32) {
        // SAFETY: the caller's promise; both may be the same.
        unsafe {
            let mut count = 0;
            for l in 0..Self::W {
                to.add(count).write(from.add(l).read());
                count += (mask >> l & 1) as usize;
            }
        }
    }
    /// Of `count` places, which differ, those whose bit in `marks` is not set come to the front, in order, and get it; their number. There
    /// is room for whole vectors of places.
    #[inline(always)]
    unsafe fn mark_new(marks: *mut u32, places: *mut u32, count: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { portable::mark_new(marks, places, count) }
    }
    /// A new key into `len` rising ones at `keys`, which has room for [`KEYS`] more; its place. The number before them is smaller than all.
    #[inline(always)]
    unsafe fn insert(keys: *mut u64, len: usize, new: u64) -> usize {
        // SAFETY: the caller's promise.
        unsafe { portable::insert(keys, len, new) }
    }
    /// Words as 32-bit integers, to f32.
    unsafe fn i32_to_f32(v: Self::V) -> Self::V;
    /// `W` bfloat16, rounded to nearest even.
    unsafe fn store_bf16(p: *mut u16, v: Self::V);
    /// Words: bfloat16 of `low` in the lower half, of `high` in the upper half.
    unsafe fn pair_bf16(low: Self::V, high: Self::V) -> Self::V;
    unsafe fn load_f16(p: *const u16) -> Self::V;
    unsafe fn store_f16(p: *mut u16, v: Self::V);
}

/// A job that runs under one instruction set, with register tiles of `MR` rows.
pub trait Kernel {
    /// What it returns.
    type Out;
    /// # Safety
    /// `S` must be available on this processor.
    unsafe fn run<S: Simd, const MR: usize>(self) -> Self::Out;
}

/// The instruction sets that a kernel exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with BF16, VNNI and VPOPCNTDQ (Zen 4, Sapphire Rapids and later).
    Avx512Bf16,
    /// AVX-512 F, BW, DQ, VL: bfloat16 and bytes are widened.
    Avx512,
    /// AVX2, FMA and F16C.
    Avx2,
    /// Every aarch64.
    Neon,
    /// Plain Rust, left to the compiler.
    Portable,
}

impl Isa {
    /// All, best first.
    pub const ALL: [Isa; 5] = [Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable];

    /// Its name in the Python interface.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512Bf16 => "avx512_bf16",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }

    /// Whether this processor can run it.
    pub fn available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => {
                Isa::Avx512.available()
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512vpopcntdq")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            Isa::Portable => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The best one here.
    pub fn best() -> Isa {
        *Isa::ALL.iter().find(|i| i.available()).unwrap_or(&Isa::Portable)
    }

    /// By name, or the best one.
    ///
    /// # Errors
    /// When there is no such instruction set, or this processor lacks it.
    pub fn named(name: Option<&str>) -> Result<Isa, ArgumentError> {
        let Some(name) = name else { return Ok(Isa::best()) };
        Isa::ALL
            .into_iter()
            .find(|i| i.name() == name && i.available())
            .ok_or_else(|| ArgumentError::Isa(name.to_owned()))
    }

    /// Run `kernel` compiled for this instruction set.
    ///
    /// # Panics
    /// When it is not available.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Out {
        assert!(self.available(), "{} is not available here", self.name());
        // SAFETY: availability was checked.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Bf16 => avx512::run_bf16(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512::run(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::run(kernel),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => neon::run(kernel),
                _ => kernel.run::<portable::Portable, 4>(),
            }
        }
    }
}

/// Fetch the cache lines of `bytes` bytes at `p` ahead of their use; nothing where the language has no such instruction.
#[inline(always)]
pub fn prefetch<T>(p: *const T, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        // SAFETY: a prefetch has no effect on memory, whatever the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(p.cast::<i8>().wrapping_add(line));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, bytes);
}

struct TileShape;
impl Kernel for TileShape {
    type Out = (usize, usize);
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self) -> (usize, usize) {
        (MR, NV * S::W)
    }
}

/// Rows and columns of a register tile under `isa`.
pub fn tile_shape(isa: Isa) -> (usize, usize) {
    isa.run(TileShape)
}
