//! Every kernel on every instruction set of this processor against a few float64 lines, and its bits for several numbers of threads.
//! `examples/selftest.rs` runs the comparison on processors without a test harness, as `make test-neon` does under qemu.

use super::exact::{Arguments, NOTHING, ROUNDING, Rng, close, isas, lse, scores};
use proptest::prelude::*;
use simtile_core::grad::{Loss, NllOut, Wanted, pair_grad};
use simtile_core::limits::GuideArgs;
use simtile_core::lse::pair_lse;
use simtile_core::pairs::{Diagonal, PairArgs};
use simtile_core::rank::pair_rank;
use simtile_core::tile::{Bf16, Elem, Matrix, own_scores};
use simtile_core::{ArgumentError, Isa};

const WORKSPACE: usize = 1 << 20;

/// Every op of one problem against float64.
fn check<E: Elem>(isa: Isa, (m, n, d): (usize, usize, usize), scale: f32, which: usize, threads: usize) {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15 ^ (m * 31 + n * 7 + d) as u64);
    let (xs, ys) = (rng.rows::<E>(m, d), rng.rows::<E>(n, d));
    let (x, y) = (Matrix::new(&xs, m, d), Matrix::new(&ys, n, d));
    let arguments = Arguments::new(&mut rng, m, n);
    let pairs = arguments.pairs(which, false);
    let s = scores(x, y, scale, &pairs);
    // A score is a rounded sum; a log-sum-exp carries the error of its scores and its own rounding; e^(s - lse) that of both.
    let largest = s.iter().flatten().map(|p| p.0.abs()).filter(|v| v.is_finite()).fold(1.0, f64::max);
    let of_score = 6.0 * ROUNDING * largest;
    // bfloat16 has 8 bits: half an ulp is 2^-8, once for the coefficients and once for the gradients.
    let of_p = 2.0 * of_score + 16.0 * ROUNDING + if E::PER_WORD == 2 { 1.0 / 128.0 } else { 0.0 };

    let row: Vec<f64> = s.iter().map(|r| lse(r.iter().map(|p| p.0))).collect();
    let column: Vec<f64> = (0..n).map(|j| lse(s.iter().map(|r| r[j].0))).collect();
    let mut stash = vec![0u16; m * n];
    let out = pair_lse(x, y, scale, &pairs, (true, true), &mut stash, threads, isa).unwrap();
    let (row_lse, column_lse) = (out.row.unwrap(), out.column.unwrap());
    let of_lse = |lse: f64| of_score + 2.0 * ROUNDING * (1.0 + lse.abs());
    close("row", &row_lse, &row, |i| of_lse(row[i]));
    close("column", &column_lse, &column, |j| of_lse(column[j]));

    let (g, h, diagonal) = (rng.vector(m), rng.vector(n), rng.vector(m.min(n)));
    let two_sided = |i: usize, j: usize| {
        let share = |lse: f64| if s[i][j].0 == f64::NEG_INFINITY { 0.0 } else { (s[i][j].0 - lse).exp() };
        let own = if i == j { f64::from(diagonal[i]) } else { 0.0 };
        [f64::from(g[i]) * share(row[i]), f64::from(h[j]) * share(column[j]), own]
    };
    // Scores in float16 are no use at scale 333: that is the planner's business.
    for stashed in [false, true].into_iter().take(if scale < 50.0 { 2 } else { 1 }) {
        let loss = Loss::Softmax {
            row: Some((&row_lse, &g)),
            column: Some((&column_lse, &h)),
            stash: if stashed { &stash } else { &[] },
        };
        // float16 keeps 11 bits of a score.
        let tolerance = of_p + if stashed { largest / 2048.0 } else { 0.0 };
        check_gradients(isa, x, y, scale, &pairs, loss, Some(&diagonal), two_sided, tolerance, threads);
    }

    let (weight, target) = (rng.vector(m).iter().map(|w| w.max(0.0)).collect::<Vec<f32>>(), rng.vector(m));
    for softplus in [false, true] {
        let (mut loss, mut lse, mut coefficient) = (vec![0f32; m], vec![0f32; m], vec![0f32; m]);
        let z = |i: usize| row[i] - f64::from(target[i]);
        let live = |i: usize| weight[i] > 0.0 && row[i].is_finite();
        let slope = |i: usize| {
            if !live(i) { 0.0 } else { f64::from(weight[i]) * if softplus { 1.0 / (1.0 + (-z(i)).exp()) } else { 1.0 } }
        };
        let p = |i: usize, j: usize| [if slope(i) == 0.0 { 0.0 } else { slope(i) * (s[i][j].0 - row[i]).exp() }];
        let out = NllOut { loss: &mut loss, lse: &mut lse, coefficient: &mut coefficient };
        let nll = Loss::Nll { weight: &weight, target: &target, softplus, own_target: false, out };
        check_gradients(isa, x, y, scale, &pairs, nll, None, p, of_p, threads);
        let value = |i: usize| {
            if !live(i) {
                0.0
            } else if softplus {
                z(i).max(0.0) + (-z(i).abs()).exp().ln_1p()
            } else {
                z(i)
            }
        };
        close("loss", &loss, &(0..m).map(value).collect::<Vec<_>>(), |i| of_lse(row[i]));
        close("coefficient", &coefficient, &(0..m).map(slope).collect::<Vec<_>>(), |i| 2.0 * of_score * slope(i));
    }

    let flipped = arguments.pairs(which, true);
    let f = scores(x, y, scale, &flipped);
    let mut rows = vec![0f32; m];
    let p = |i: usize, j: usize| [f64::from(weight[i]) * f[i][j].1 / (1.0 + (-f[i][j].0).exp())];
    let softplus = Loss::Softplus { weight: &weight, rows: &mut rows };
    check_gradients(isa, x, y, scale, &flipped, softplus, None, p, of_p, threads);
    let value = |i: usize| {
        if weight[i] == 0.0 { 0.0 } else { f[i].iter().map(|(z, _)| z.max(0.0) + (-z.abs()).exp().ln_1p()).sum() }
    };
    let rows_exact: Vec<f64> = (0..m).map(value).collect();
    close("softplus", &rows, &rows_exact, |i| of_p * rows_exact[i]);

    let ranks = pair_rank(x, y, scale, Some(&target), &pairs, threads, isa).unwrap();
    let margin = 1e-5 * f64::from(scale).max(1.0);
    for i in 0..m {
        let above = |by: f64| s[i].iter().filter(|p| p.0 > f64::from(target[i]) + by).count() as i64;
        assert!((above(margin)..=above(-margin)).contains(&ranks.greater[i]), "rank of row {i}");
    }
}

#[allow(clippy::too_many_arguments)]
fn check_gradients<E: Elem, const TERMS: usize>(
    isa: Isa,
    x: Matrix<E>,
    y: Matrix<E>,
    scale: f32,
    pairs: &PairArgs,
    loss: Loss,
    diagonal: Option<&[f32]>,
    // The terms of P; errors are judged by the sum of their magnitudes, because terms may cancel.
    p: impl Fn(usize, usize) -> [f64; TERMS],
    tolerance: f64,
    threads: usize,
) {
    let (m, n, d) = (x.rows, y.rows, x.columns);
    let (mut dx, mut dy) = (vec![E::from_f32(f32::NAN); m * d], vec![E::from_f32(f32::NAN); n * d]);
    let (mut x_bias, mut y_bias) = (vec![f32::NAN; m], vec![f32::NAN; n]);
    let wanted = Wanted { x: &mut dx, y: &mut dy, x_bias: &mut x_bias, y_bias: &mut y_bias };
    let dscale = pair_grad(x, y, scale, pairs, loss, diagonal, wanted, WORKSPACE, threads, isa).unwrap();
    let at = |m: Matrix<E>, i: usize, t: usize| f64::from(m.row(i)[t].to_f32());
    let scale = f64::from(scale);
    // Exact gradients, and the same sums of magnitudes.
    let (mut ex, mut ey, mut ex_bias, mut ey_bias, mut ex_scale) =
        (vec![0f64; m * d], vec![0f64; n * d], vec![0f64; m], vec![0f64; n], 0f64);
    let (mut sx, mut sy, mut sx_bias, mut sy_bias, mut s_scale) =
        (ex.clone(), ey.clone(), ex_bias.clone(), ey_bias.clone(), 0f64);
    for i in 0..m {
        for j in 0..n {
            let (value, size) = p(i, j).iter().fold((0.0, 0.0), |(v, s), t| (v + t, s + t.abs()));
            ex_bias[i] += value;
            ey_bias[j] += value;
            sx_bias[i] += size;
            sy_bias[j] += size;
            for t in 0..d {
                let (a, b) = (at(x, i, t), at(y, j, t));
                ex[i * d + t] += scale * value * b;
                ey[j * d + t] += scale * value * a;
                ex_scale += value * a * b;
                sx[i * d + t] += scale * size * b.abs();
                sy[j * d + t] += scale * size * a.abs();
                s_scale += size * (a * b).abs();
            }
        }
    }
    let narrow = |v: &[E]| v.iter().map(|v| v.to_f32()).collect::<Vec<f32>>();
    close("dx", &narrow(&dx), &ex, |i| tolerance * sx[i]);
    close("dy", &narrow(&dy), &ey, |j| tolerance * sy[j]);
    close("x_bias", &x_bias, &ex_bias, |i| tolerance * sx_bias[i]);
    close("y_bias", &y_bias, &ey_bias, |j| tolerance * sy_bias[j]);
    assert!(
        (dscale - ex_scale).abs() <= (tolerance * s_scale).max(NOTHING),
        "dscale: got {dscale}, wanted {ex_scale} to {}",
        tolerance * s_scale
    );
}

/// (1,1,1); below a tile; one row; a tile of 12 x 32; ragged; ragged past one block of 384 columns and of rows; N ≠ M.
const SHAPES: [(usize, usize, usize); 8] =
    [(1, 1, 1), (3, 5, 2), (1, 70, 9), (12, 32, 64), (25, 33, 31), (50, 400, 7), (400, 50, 5), (97, 390, 130)];

/// Every op, shape and kind of pairs, on every instruction set, with one or `threads` threads.
pub fn every_op(threads: usize) {
    for isa in isas() {
        for (u, shape) in SHAPES.into_iter().enumerate() {
            let threads = if u % 2 == 0 { 1 } else { threads };
            for scale in [1.0, 20.0, 333.0] {
                for which in [0, 15, 2 + 16, 8 + u % 8, 32, 64 + 8] {
                    check::<f32>(isa, shape, scale, which, threads);
                    check::<Bf16>(isa, shape, scale, which, threads);
                }
            }
        }
    }
}

#[test]
fn every_op_agrees_with_float64_on_every_instruction_set() {
    every_op(2);
}

/// All results of a problem, by their bits.
fn all_results<E: Elem>(isa: Isa, (m, n, d): (usize, usize, usize), workspace: usize, threads: usize) -> Vec<u32> {
    let mut rng = Rng(7);
    let (xs, ys) = (rng.rows::<E>(m, d), rng.rows::<E>(n, d));
    let (x, y) = (Matrix::new(&xs, m, d), Matrix::new(&ys, n, d));
    let pairs = PairArgs { diagonal: Diagonal::Skip, ..PairArgs::default() };
    let out = pair_lse(x, y, 20.0, &pairs, (true, true), &mut [], threads, isa).unwrap();
    let (row, column) = (out.row.unwrap(), out.column.unwrap());
    let (g, h) = (rng.vector(m), rng.vector(n));
    let mut all = own_scores(x, y, 20.0, threads);
    all.extend(row.iter().chain(&column));
    for one_sided in [false, true] {
        let (mut dx, mut dy) = (vec![E::from_f32(0.0); m * d], vec![E::from_f32(0.0); n * d]);
        let (mut x_bias, mut y_bias) = (vec![0f32; m], vec![0f32; n]);
        let wanted = Wanted { x: &mut dx, y: &mut dy, x_bias: &mut x_bias, y_bias: &mut y_bias };
        let (mut loss, mut lse, mut coefficient) = (vec![0f32; m], vec![0f32; m], vec![0f32; m]);
        let loss = if one_sided {
            let out = NllOut { loss: &mut loss, lse: &mut lse, coefficient: &mut coefficient };
            Loss::Nll { weight: &g, target: &row, softplus: true, own_target: false, out }
        } else {
            Loss::Softmax { row: Some((&row, &g)), column: Some((&column, &h)), stash: &[] }
        };
        all.push(pair_grad(x, y, 20.0, &pairs, loss, None, wanted, workspace, threads, isa).unwrap() as f32);
        all.extend(dx.iter().chain(&dy).map(|v| v.to_f32()));
        all.extend(x_bias.iter().chain(&y_bias).chain(&lse).chain(&coefficient));
    }
    all.into_iter().map(f32::to_bits).collect()
}

#[test]
fn results_have_the_same_bits_for_any_number_of_threads() {
    for isa in isas() {
        // Several chunks of rows; few rows against many columns; superblocks of columns by a small workspace.
        for shape in [(800, 450, 20), (30, 2000, 20)] {
            for workspace in [1 << 10, 1 << 26] {
                let one = all_results::<f32>(isa, shape, workspace, 1);
                assert!(one == all_results::<f32>(isa, shape, workspace, 2), "{} {shape:?} {workspace}", isa.name());
                assert!(one == all_results::<f32>(isa, shape, workspace, 5), "{} {shape:?} {workspace}", isa.name());
                assert!(all_results::<Bf16>(isa, shape, workspace, 1) == all_results::<Bf16>(isa, shape, workspace, 3));
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_makes_every_result_nan() {
    let isa = Isa::best();
    for bad in [f32::NAN, f32::INFINITY] {
        let (mut xs, ys) = (vec![0.5f32; 40 * 8], vec![0.25f32; 30 * 8]);
        xs[100] = bad;
        let (x, y) = (Matrix::new(&xs, 40, 8), Matrix::new(&ys, 30, 8));
        let out = pair_lse(x, y, 1.0, &PairArgs::default(), (true, true), &mut [], 2, isa).unwrap();
        assert!(out.row.unwrap().iter().chain(&out.column.unwrap()).all(|v| v.is_nan()));
        let (mut dx, mut dy, one, mut rows) = (vec![0f32; 320], vec![0f32; 240], vec![1f32; 40], vec![0f32; 40]);
        let wanted = Wanted { x: &mut dx, y: &mut dy, x_bias: &mut [], y_bias: &mut [] };
        let loss = Loss::Softplus { weight: &one, rows: &mut rows };
        let dscale = pair_grad(x, y, 1.0, &PairArgs::default(), loss, None, wanted, WORKSPACE, 2, isa).unwrap();
        assert!(dscale.is_nan() && dx.iter().chain(&dy).chain(&rows).all(|v| v.is_nan()));
    }
}

#[test]
fn scores_that_could_leave_float32_are_nan_rather_than_nothing() {
    let (xs, ys) = (vec![1e25f32; 4 * 8], vec![1e25f32; 5 * 8]);
    let (x, y) = (Matrix::new(&xs, 4, 8), Matrix::new(&ys, 5, 8));
    let out = pair_lse(x, y, 1.0, &PairArgs::default(), (true, true), &mut [], 1, Isa::best()).unwrap();
    assert!(out.row.unwrap().iter().chain(&out.column.unwrap()).all(|v| v.is_nan()));
    assert!(pair_rank(x, y, 1.0, None, &PairArgs::default(), 1, Isa::best()).is_err());
}

#[test]
fn large_scores_lose_no_more_than_their_own_rounding() {
    for isa in isas() {
        for magnitude in [1e3f32, 3e4, 1e6, 1e9] {
            let mut rng = Rng(3);
            let (xs, ys) = (rng.rows::<f32>(30, 4), rng.rows::<f32>(40, 4));
            let (x, y) = (Matrix::new(&xs, 30, 4), Matrix::new(&ys, 40, 4));
            // Skipping the diagonal makes rows and columns differ in what they keep.
            let pairs = PairArgs { diagonal: Diagonal::Skip, ..PairArgs::default() };
            let s = scores(x, y, magnitude, &pairs);
            let out = pair_lse(x, y, magnitude, &pairs, (true, true), &mut [], 1, isa).unwrap();
            let row = (0..30).map(|i| lse(s[i].iter().map(|p| p.0)));
            let column = (0..40).map(|j| lse(s.iter().map(|r| r[j].0)));
            for (got, want) in out.row.unwrap().iter().zip(row).chain(out.column.unwrap().iter().zip(column)) {
                let rounding = 4.0 * f64::from(f32::EPSILON) * f64::from(magnitude);
                assert!((f64::from(*got) - want).abs() <= rounding, "{} {magnitude}: {got}, not {want}", isa.name());
            }
        }
    }
}

#[test]
fn without_a_guide_the_own_score_is_compared() {
    for isa in isas() {
        for (m, n, d) in [(1, 1, 1), (25, 33, 31), (50, 400, 7)] {
            let mut rng = Rng(5);
            let (xs, ys, bias) = (rng.rows::<f32>(m, d), rng.rows::<f32>(n, d), rng.vector(m));
            let (x, y) = (Matrix::new(&xs, m, d), Matrix::new(&ys, n, d));
            let all = PairArgs { x_bias: Some(&bias), ..PairArgs::default() };
            // Halfway between two neighbours, where no rounding decides.
            let threshold: Vec<f32> = scores(x, y, 3.0, &all)
                .into_iter()
                .map(|row| {
                    let mut row: Vec<f64> = row.into_iter().map(|p| p.0).collect();
                    row.sort_by(f64::total_cmp);
                    let gap = |&i: &usize| row[i + 1] - row[i];
                    (0..n - 1)
                        .max_by(|a, b| gap(a).total_cmp(&gap(b)))
                        .map_or(9.0, |i| (row[i] + row[i + 1]) as f32 / 2.0)
                })
                .collect();
            let pairs = PairArgs { threshold: Some(&threshold), ..all };
            let s = scores(x, y, 3.0, &pairs);
            let out = pair_lse(x, y, 3.0, &pairs, (true, true), &mut [], 2, isa).unwrap();
            let row: Vec<f64> = s.iter().map(|r| lse(r.iter().map(|p| p.0))).collect();
            let column: Vec<f64> = (0..n).map(|j| lse(s.iter().map(|r| r[j].0))).collect();
            close("row", &out.row.unwrap(), &row, |_| 1e-5);
            close("column", &out.column.unwrap(), &column, |_| 1e-5);
        }
    }
}

/// The half above the diagonal has the whole matrix in its rows and columns.
#[test]
fn a_matrix_against_itself_is_made_from_one_half() {
    fn halves<E: Elem>(isa: Isa, (m, d): (usize, usize), threads: usize) {
        let mut rng = Rng(m as u64);
        let (xs, g) = (rng.rows::<E>(m, d), rng.vector(m));
        let x = Matrix::new(&xs, m, d);
        let ids: Vec<i64> = (0..m as i64).map(|i| i % 5).collect();
        let of = |diagonal| PairArgs { x_ids: Some(&ids), y_ids: Some(&ids), diagonal, ..PairArgs::default() };
        let (above, all) = (of(Diagonal::Above), of(Diagonal::Skip));
        let part = pair_lse(x, x, 20.0, &above, (true, true), &mut [], threads, isa).unwrap();
        let (row, column) = (part.row.unwrap(), part.column.unwrap());
        let merged: Vec<f32> =
            row.iter().zip(&column).map(|(&a, &b)| lse([f64::from(a), f64::from(b)].into_iter()) as f32).collect();
        let whole = pair_lse(x, x, 20.0, &all, (true, false), &mut [], threads, isa).unwrap().row.unwrap();
        close("row", &merged, &whole.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), |_| 1e-5);
        let gradient = |pairs: &PairArgs, column| {
            let (mut dx, mut dy) = (vec![E::from_f32(0.0); m * d], vec![E::from_f32(0.0); m * d]);
            let wanted = Wanted { x: &mut dx, y: &mut dy, x_bias: &mut [], y_bias: &mut [] };
            let loss = Loss::Softmax { row: Some((&whole, &g)), column, stash: &[] };
            let dscale = pair_grad(x, x, 20.0, pairs, loss, None, wanted, WORKSPACE, threads, isa).unwrap();
            let sum: Vec<f32> = dx.iter().zip(&dy).map(|(a, b)| a.to_f32() + b.to_f32()).collect();
            (sum, dscale)
        };
        let (half, of_half) = gradient(&above, Some((&whole[..], &g[..])));
        let (full, of_full) = gradient(&all, None);
        let largest = full.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
        let tolerance = if E::PER_WORD == 2 { 0.02 } else { 1e-5 };
        close("dx", &half, &full.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), |_| tolerance * largest);
        assert!((of_half - of_full).abs() <= tolerance * of_full.abs().max(m as f64), "{of_half}, not {of_full}");
    }
    for isa in isas() {
        for shape in [(1, 1), (40, 9), (385, 20), (1200, 16)] {
            halves::<f32>(isa, shape, 2);
            halves::<Bf16>(isa, shape, 1);
        }
    }
}

#[test]
fn empty_sides_give_empty_reductions() {
    let (isa, pairs) = (Isa::best(), PairArgs::default());
    let ys = vec![1f32; 12];
    let (none, y) = (Matrix::<f32>::new(&[], 0, 4), Matrix::new(&ys, 3, 4));
    let out = pair_lse(none, y, 1.0, &pairs, (true, true), &mut [], 2, isa).unwrap();
    assert!(out.row.unwrap().is_empty() && out.column.unwrap() == [f32::NEG_INFINITY; 3]);
    let mut dy = vec![9f32; 12];
    let wanted = Wanted { x: &mut [], y: &mut dy, x_bias: &mut [], y_bias: &mut [] };
    let loss = Loss::Softplus { weight: &[], rows: &mut [] };
    pair_grad(none, y, 1.0, &pairs, loss, None, wanted, WORKSPACE, 2, isa).unwrap();
    assert_eq!(dy, [0.0; 12]);
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    let xs = vec![0f32; 6];
    let x = Matrix::new(&xs, 3, 2);
    let lse = |pairs: PairArgs| pair_lse(x, x, 1.0, &pairs, (true, false), &mut [], 1, Isa::best()).err().unwrap();
    let args = PairArgs::default();
    assert!(matches!(
        lse(PairArgs { x_bias: Some(&[0.0]), ..args }),
        ArgumentError::Length { name: "x_bias", wanted: 3, got: 1 }
    ));
    assert!(matches!(lse(PairArgs { x_ids: Some(&[0, 0, 0]), ..args }), ArgumentError::Pair("x_ids, y_ids")));
    let csr = |p, c| PairArgs { indptr: Some(p), indices: Some(c), ..PairArgs::default() };
    assert!(matches!(lse(csr(&[0, 2, 1, 2], &[0, 1])), ArgumentError::Indptr(2)));
    assert!(matches!(lse(csr(&[0, 1, 1, 1], &[3])), ArgumentError::Indices(3)));
    assert!(matches!(lse(csr(&[0, 2, 2, 2], &[1, 0])), ArgumentError::Indices(3)));
    let guide = Some(GuideArgs::F32(x, Matrix::new(&xs[..4], 2, 2)));
    assert!(matches!(lse(PairArgs { guide, ..args }), ArgumentError::Pair("threshold, guide")));
    assert!(matches!(
        lse(PairArgs { guide, threshold: Some(&[0.0; 3]), ..args }),
        ArgumentError::Length { name: "guide_y", wanted: 3, got: 2 }
    ));
    assert!(matches!(
        lse(PairArgs { threshold: Some(&[0.0]), ..args }),
        ArgumentError::Length { name: "threshold", .. }
    ));
    assert_eq!(Isa::named(Some("mmx")), Err(ArgumentError::Isa("mmx".into())));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn any_shape_and_any_pairs(m in 1usize..60, n in 1usize..60, d in 1usize..40, which in 0usize..96, scale in prop_oneof![Just(0.1f32), Just(30.0), Just(300.0)]) {
        for isa in isas() {
            check::<f32>(isa, (m, n, d), scale, which, 2);
            check::<Bf16>(isa, (m, n, d), scale, which, 1);
        }
    }

    #[test]
    fn columns_in_two_parts_merge_to_the_whole(n in 2usize..200, cut in 1usize..199, scale in 0.1f32..400.0) {
        let cut = cut.min(n - 1);
        let mut rng = Rng(n as u64 * 1000 + cut as u64 + 1);
        let (xs, ys) = (rng.rows::<f32>(20, 16), rng.rows::<f32>(n, 16));
        let x = Matrix::new(&xs, 20, 16);
        let part = |from: usize, to: usize| {
            let y = Matrix::new(&ys[from * 16..to * 16], to - from, 16);
            pair_lse(x, y, scale, &PairArgs::default(), (true, false), &mut [], 1, Isa::best()).unwrap().row.unwrap()
        };
        let (a, b, whole) = (part(0, cut), part(cut, n), part(0, n));
        for i in 0..20 {
            let merged = lse([f64::from(a[i]), f64::from(b[i])].into_iter());
            prop_assert!((merged - f64::from(whole[i])).abs() <= 2e-6 * f64::from(whole[i]).abs().max(1.0));
        }
    }
}
