//! Table look-ups for 32 bit strings at once, as AVX2 shuffles bytes: "fast scan" [1] over strings that lie apart.
//!
//! [1] André, Kermarrec & Le Scouarnec, Cache locality is not enough: high-performance nearest neighbor search with product quantization
//! fast scan, VLDB 2015.

use std::arch::x86_64::*;

/// For each of `which`, 1 to 32 records of `stride` bytes, the sum over its half bytes of their entries in `table`, 32 half bytes at a
/// time; sums fit in 16 bits, those of eight entries in 8.
///
/// # Safety
/// The processor has AVX2; `records` points to all of the records, which are as long as the table.
#[inline(always)]
pub(super) unsafe fn look_up(table: &[[u8; 16]], records: *const u8, stride: usize, which: &[u32]) -> [u16; 32] {
    let last = which.len() - 1;
    let mut sums = [0; 32];
    // SAFETY: the caller's promise.
    unsafe {
        let at = |r: usize| records.add(which[r.min(last)] as usize * stride);
        let half = _mm256_set1_epi8(15);
        let lower = _mm256_set1_epi16(0xff);
        // Of records 2i and 2i + 1 of either lane.
        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (block, table) in table.chunks_exact(32).enumerate() {
            // Records r and r + 16 in the lanes of row r; transposed, row c has byte c of all.
            let mut rows = [_mm256_setzero_si256(); 16];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = _mm256_loadu2_m128i(at(r + 16).add(16 * block).cast(), at(r).add(16 * block).cast());
            }
            for _ in 0..4 {
                let from = rows;
                for i in 0..8 {
                    rows[2 * i] = _mm256_unpacklo_epi8(from[i], from[i + 8]);
                    rows[2 * i + 1] = _mm256_unpackhi_epi8(from[i], from[i + 8]);
                }
            }
            for (rows, table) in rows.chunks_exact(4).zip(table.chunks_exact(8)) {
                let mut bytes = _mm256_setzero_si256();
                for (&row, table) in rows.iter().zip(table.chunks_exact(2)) {
                    let halves = [_mm256_and_si256(row, half), _mm256_and_si256(_mm256_srli_epi16::<4>(row), half)];
                    for (index, entries) in halves.into_iter().zip(table) {
                        let entries = _mm256_broadcastsi128_si256(_mm_loadu_si128(entries.as_ptr().cast()));
                        bytes = _mm256_add_epi8(bytes, _mm256_shuffle_epi8(entries, index));
                    }
                }
                even = _mm256_add_epi16(even, _mm256_and_si256(bytes, lower));
                odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(bytes));
            }
        }
        let (low, high) = (_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd));
        let to = sums.as_mut_ptr().cast::<__m256i>();
        _mm256_storeu_si256(to, _mm256_permute2x128_si256::<0x20>(low, high));
        _mm256_storeu_si256(to.add(1), _mm256_permute2x128_si256::<0x31>(low, high));
    }
    sums
}
