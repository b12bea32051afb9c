//! Matrices of pseudo-random elements, and the check that a product of them is right.

use simtile_core::tile::{Elem, Matrix};

/// A row-major matrix that owns its elements.
pub struct Dense<E> {
    elements: Vec<E>,
    rows: usize,
    columns: usize,
}

impl<E: Elem> Dense<E> {
    /// Uniform in (-limit, limit), or in [0, limit) where `positive`: the row side of byte products is unsigned.
    pub fn random(rows: usize, columns: usize, seed: u64, limit: f32, positive: bool) -> Dense<E> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            // xorshift64: Marsaglia 2003, doi:10.18637/jss.v008.i14.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let unit = (state >> 40) as f32 / (1u32 << 24) as f32;
            E::from_f32(limit * if positive { unit } else { 2.0 * unit - 1.0 })
        };
        Dense { elements: (0..rows * columns).map(|_| next()).collect(), rows, columns }
    }

    /// All of it.
    pub fn matrix(&self) -> Matrix<'_, E> {
        Matrix::new(&self.elements, self.rows, self.columns)
    }
}

/// Compare sampled elements of a product with float64.
///
/// # Panics
/// Where one is off by more than float32 sums explain: a wrong contender is not timed.
pub fn check<E: Elem>(what: &str, x: &Dense<E>, y: &Dense<E>, mut found: impl FnMut(usize, usize) -> f64) {
    let (x, y) = (x.matrix(), y.matrix());
    for t in 0..1000 {
        let (i, j) = (t * 7919 % x.rows, t * 104_729 % y.rows);
        let terms = x.row(i).iter().zip(y.row(j)).map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32()));
        let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
        let off = (found(i, j) - exact).abs();
        assert!(off <= 1e-5 * size, "{what}: element ({i}, {j}) is off by {off:e} of {exact:e}");
    }
}
