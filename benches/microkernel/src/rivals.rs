//! C = X Yᵀ by well-kept crates, called as their documentation says: one thread, float32, C overwritten.

use simtile_core::tile::Matrix;

/// <https://docs.rs/gemm>, with its feature for AVX-512.
pub fn gemm(x: Matrix<f32>, y: Matrix<f32>, c: &mut [f32]) {
    let (m, n, k) = (x.rows, y.rows, x.columns);
    assert_eq!(c.len(), m * n);
    // SAFETY: strides (column, row) of row-major C and X, and of Y read as its transpose; all lie inside the slices.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.data.as_ptr(),
            1,
            k as isize,
            y.data.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// <https://docs.rs/matrixmultiply>: AVX2 and FMA at most.
pub fn matrixmultiply(x: Matrix<f32>, y: Matrix<f32>, c: &mut [f32]) {
    let (m, n, k) = (x.rows, y.rows, x.columns);
    assert_eq!(c.len(), m * n);
    // SAFETY: strides (row, column), as above.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            x.data.as_ptr(),
            k as isize,
            1,
            y.data.as_ptr(),
            1,
            k as isize,
            0.0,
            c.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}
