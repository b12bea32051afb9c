//! Prefixes of the coordinates on every instruction set of this processor against float64, and their bits for several numbers of threads.

use super::exact::{Arguments, NOTHING, ROUNDING, Rng, close, isas, lse, scores};
use simtile_core::grad::{Loss, NllOut, Wanted, nested_grad};
use simtile_core::lse::nested_lse;
use simtile_core::pairs::PairArgs;
use simtile_core::prefixes::Prefixes;
use simtile_core::tile::{Bf16, Elem, Matrix};
use simtile_core::{ArgumentError, Isa};

const WORKSPACE: usize = 1 << 20;

/// The first `d` coordinates in float32, divided by their norm or not, and that norm.
fn prefix<E: Elem>(x: Matrix<E>, d: usize, normalize: bool) -> (Vec<f32>, Vec<f64>) {
    let row = |i: usize| x.row(i)[..d].iter().map(|v| f64::from(v.to_f32()));
    let norms: Vec<f64> = (0..x.rows)
        .map(|i| if normalize { row(i).map(|v| v * v).sum::<f64>().sqrt().max(1e-12) } else { 1.0 })
        .collect();
    ((0..x.rows).flat_map(|i| row(i).map(move |v| v as f32).collect::<Vec<_>>()).collect(), norms)
}

/// scores[k][i][j] in float64.
fn nested_scores<E: Elem>(
    x: Matrix<E>,
    y: Matrix<E>,
    dims: &[usize],
    normalize: bool,
    scale: f32,
    pairs: &PairArgs,
) -> Vec<Vec<Vec<f64>>> {
    let of = |&d: &usize| {
        let ((a, p), (b, q)) = (prefix(x, d, normalize), prefix(y, d, normalize));
        let s = scores(Matrix::new(&a, x.rows, d), Matrix::new(&b, y.rows, d), scale, pairs);
        s.iter().enumerate().map(|(i, r)| r.iter().enumerate().map(|(j, v)| v.0 / (p[i] * q[j])).collect()).collect()
    };
    dims.iter().map(of).collect()
}

/// Gradients of Σ_k Σ_ij P_k s_k by x, y and the scale, and the same sums of magnitudes.
struct Exact {
    x: [Vec<f64>; 2],
    y: [Vec<f64>; 2],
    scale: [f64; 2],
}

fn exact<E: Elem>(
    x: Matrix<E>,
    y: Matrix<E>,
    dims: &[usize],
    normalize: bool,
    scale: f32,
    p: impl Fn(usize, usize, usize) -> f64,
) -> Exact {
    let (m, n, d) = (x.rows, y.rows, x.columns);
    let at = |m: Matrix<E>, i: usize, t: usize| f64::from(m.row(i)[t].to_f32());
    let mut out =
        Exact { x: [vec![0.0; m * d], vec![0.0; m * d]], y: [vec![0.0; n * d], vec![0.0; n * d]], scale: [0.0; 2] };
    for (k, &end) in dims.iter().enumerate() {
        let ((_, nx), (_, ny)) = (prefix(x, end, normalize), prefix(y, end, normalize));
        for (i, &nx) in nx.iter().enumerate() {
            for (j, &ny) in ny.iter().enumerate() {
                let value = p(k, i, j);
                let by_norms = f64::from(scale) * value / (nx * ny);
                let dot: f64 = (0..end).map(|t| at(x, i, t) * at(y, j, t)).sum();
                out.scale[0] += value * dot / (nx * ny);
                out.scale[1] += value.abs();
                for t in 0..end {
                    let (a, b) = (at(x, i, t), at(y, j, t));
                    let (off_x, off_y) =
                        if normalize { (dot / nx.powi(2) * a, dot / ny.powi(2) * b) } else { (0.0, 0.0) };
                    out.x[0][i * d + t] += by_norms * (b - off_x);
                    out.y[0][j * d + t] += by_norms * (a - off_y);
                    out.x[1][i * d + t] += by_norms.abs() * (b.abs() + off_x.abs());
                    out.y[1][j * d + t] += by_norms.abs() * (a.abs() + off_y.abs());
                }
            }
        }
    }
    out
}

fn check<E: Elem>(
    isa: Isa,
    (m, n, d): (usize, usize, usize),
    dims: &[usize],
    normalize: bool,
    scale: f32,
    which: usize,
    threads: usize,
) {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15 ^ (m * 31 + n * 7 + d) as u64);
    let (xs, ys) = (rng.rows::<E>(m, d), rng.rows::<E>(n, d));
    let (x, y) = (Matrix::new(&xs, m, d), Matrix::new(&ys, n, d));
    let arguments = Arguments::new(&mut rng, m, n);
    let pairs = arguments.pairs(which, false);
    let prefixes = Prefixes::new(x, y, dims, normalize).unwrap();
    let (count, s) = (dims.len(), nested_scores(x, y, dims, normalize, scale, &pairs));
    let largest = s.iter().flatten().flatten().map(|v| v.abs()).filter(|v| v.is_finite()).fold(1.0, f64::max);
    let of_score = 8.0 * ROUNDING * largest.max(f64::from(scale));
    let of_p = 2.0 * of_score + 16.0 * ROUNDING + if E::PER_WORD == 2 { 1.0 / 128.0 } else { 0.0 };

    let row: Vec<f64> = s.iter().flatten().map(|r| lse(r.iter().copied())).collect();
    let column: Vec<f64> = s.iter().flat_map(|s| (0..n).map(|j| lse(s.iter().map(move |r| r[j])))).collect();
    let out = nested_lse(x, y, scale, &prefixes, &pairs, (true, true), threads, isa).unwrap();
    let (row_lse, column_lse) = (out.row.unwrap(), out.column.unwrap());
    let of_lse = |lse: f64| of_score + 2.0 * ROUNDING * (1.0 + lse.abs());
    close("row", &row_lse, &row, |i| of_lse(row[i]));
    close("column", &column_lse, &column, |j| of_lse(column[j]));
    let own: Vec<f64> = nested_scores(x, y, dims, normalize, scale, &PairArgs::default())
        .iter()
        .flat_map(|s| (0..m.min(n)).map(|i| s[i][i]))
        .collect();
    close("own", &prefixes.own_scores(x, y, scale), &own, |_| of_score);

    let share =
        |k: usize, i: usize, j: usize, lse: f64| if s[k][i][j].is_finite() { (s[k][i][j] - lse).exp() } else { 0.0 };
    let (g, h, diagonal) = (rng.vector(count * m), rng.vector(count * n), rng.vector(count * m.min(n)));
    for (sides, own) in [((true, true), true), ((true, false), false), ((false, true), false)] {
        let loss = Loss::Softmax {
            row: sides.0.then_some((&row_lse[..], &g[..])),
            column: sides.1.then_some((&column_lse[..], &h[..])),
            stash: &[],
        };
        let p = |k: usize, i: usize, j: usize| {
            let of_row = if sides.0 { f64::from(g[k * m + i]) * share(k, i, j, row[k * m + i]) } else { 0.0 };
            let of_column = if sides.1 { f64::from(h[k * n + j]) * share(k, i, j, column[k * n + j]) } else { 0.0 };
            of_row + of_column + if own && i == j { f64::from(diagonal[k * m.min(n) + i]) } else { 0.0 }
        };
        let truth = exact(x, y, dims, normalize, scale, p);
        check_gradients(isa, x, y, scale, &prefixes, &pairs, loss, own.then_some(&diagonal[..]), &truth, of_p, threads);
    }

    let (weight, given) =
        (rng.vector(count * m).iter().map(|w| w.max(0.0)).collect::<Vec<f32>>(), rng.vector(count * m));
    // An own target that is kept as well leaves p - 1, which cancels; losses skip the diagonal.
    let own_targets = if n >= m && which & 8 > 0 { 2 } else { 1 };
    for own_target in [false, true].into_iter().take(own_targets) {
        let target: Vec<f32> = if own_target { own.iter().map(|&s| s as f32).collect() } else { given.clone() };
        let (mut loss, mut lse, mut coefficient) =
            (vec![0f32; count * m], vec![0f32; count * m], vec![0f32; count * m]);
        let z = |at: usize| row[at] - f64::from(target[at]);
        let live = |at: usize| weight[at] > 0.0 && row[at].is_finite();
        let slope = |at: usize| if live(at) { f64::from(weight[at]) / (1.0 + (-z(at)).exp()) } else { 0.0 };
        let p = |k: usize, i: usize, j: usize| {
            let at = k * m + i;
            let all = if slope(at) == 0.0 { 0.0 } else { slope(at) * share(k, i, j, row[at]) };
            all - if own_target && i == j { slope(at) } else { 0.0 }
        };
        let out = NllOut { loss: &mut loss, lse: &mut lse, coefficient: &mut coefficient };
        let nll = Loss::Nll { weight: &weight, target: &target, softplus: true, own_target, out };
        let truth = exact(x, y, dims, normalize, scale, p);
        check_gradients(isa, x, y, scale, &prefixes, &pairs, nll, None, &truth, of_p, threads);
        let value = |at: usize| if live(at) { z(at).max(0.0) + (-z(at).abs()).exp().ln_1p() } else { 0.0 };
        let values: Vec<f64> = (0..count * m).map(value).collect();
        close("loss", &loss, &values, |at| of_lse(row[at]));
        close("coefficient", &coefficient, &(0..count * m).map(slope).collect::<Vec<_>>(), |at| {
            2.0 * of_score * slope(at)
        });
    }
}

#[allow(clippy::too_many_arguments)]
fn check_gradients<E: Elem>(
    isa: Isa,
    x: Matrix<E>,
    y: Matrix<E>,
    scale: f32,
    prefixes: &Prefixes,
    pairs: &PairArgs,
    loss: Loss,
    diagonal: Option<&[f32]>,
    truth: &Exact,
    tolerance: f64,
    threads: usize,
) {
    let (mut dx, mut dy) = (vec![E::from_f32(f32::NAN); x.data.len()], vec![E::from_f32(f32::NAN); y.data.len()]);
    let wanted = Wanted { x: &mut dx, y: &mut dy, x_bias: &mut [], y_bias: &mut [] };
    let dscale = nested_grad(x, y, scale, prefixes, pairs, loss, diagonal, wanted, WORKSPACE, threads, isa).unwrap();
    let narrow = |v: &[E]| v.iter().map(|v| v.to_f32()).collect::<Vec<f32>>();
    close("dx", &narrow(&dx), &truth.x[0], |i| tolerance * truth.x[1][i]);
    close("dy", &narrow(&dy), &truth.y[0], |j| tolerance * truth.y[1][j]);
    let allowed = (tolerance * truth.scale[1]).max(NOTHING);
    assert!((dscale - truth.scale[0]).abs() <= allowed, "dscale: got {dscale}, wanted {} to {allowed}", truth.scale[0]);
}

type Case = ((usize, usize, usize), &'static [usize]);

/// One prefix of one coordinate; odd ends, for bfloat16; ends at no tile's; two equal ones; the longest shorter than the rows.
const CASES: [Case; 5] = [
    ((1, 1, 1), &[1]),
    ((5, 7, 9), &[1, 4, 9]),
    ((25, 33, 70), &[32, 64]),
    ((50, 400, 21), &[7, 7, 20]),
    ((400, 50, 40), &[3, 36, 40]),
];

#[test]
fn every_prefix_agrees_with_float64_on_every_instruction_set() {
    for isa in isas() {
        for (u, (shape, dims)) in CASES.into_iter().enumerate() {
            for scale in [1.0, 20.0, 333.0] {
                for which in [0, 8, 2 + 4 + 8, 32 + 8] {
                    check::<f32>(isa, shape, dims, u % 2 == 0 || scale == 20.0, scale, which, 1 + u % 2);
                    check::<Bf16>(isa, shape, dims, u % 2 == 0 || scale == 20.0, scale, which, 2 - u % 2);
                }
            }
        }
    }
}

fn all_results<E: Elem>(isa: Isa, (m, n, d): (usize, usize, usize), workspace: usize, threads: usize) -> Vec<u32> {
    let mut rng = Rng(7);
    let (xs, ys) = (rng.rows::<E>(m, d), rng.rows::<E>(n, d));
    let (x, y) = (Matrix::new(&xs, m, d), Matrix::new(&ys, n, d));
    let arguments = Arguments::new(&mut rng, m, n);
    let pairs = arguments.pairs(8 + 32, false);
    let (dims, mut all) = ([5, 12, d], vec![]);
    let prefixes = Prefixes::new(x, y, &dims, true).unwrap();
    let out = nested_lse(x, y, 20.0, &prefixes, &pairs, (true, true), threads, isa).unwrap();
    let (row, column) = (out.row.unwrap(), out.column.unwrap());
    all.extend(row.iter().chain(&column));
    let (g, h) = (rng.vector(3 * m), rng.vector(3 * n));
    for one_sided in [false, true] {
        let (mut dx, mut dy) = (vec![E::from_f32(0.0); m * d], vec![E::from_f32(0.0); n * d]);
        let wanted = Wanted { x: &mut dx, y: &mut dy, x_bias: &mut [], y_bias: &mut [] };
        let (mut loss, mut lse, mut coefficient) = (vec![0f32; 3 * m], vec![0f32; 3 * m], vec![0f32; 3 * m]);
        let loss = if one_sided {
            let out = NllOut { loss: &mut loss, lse: &mut lse, coefficient: &mut coefficient };
            Loss::Nll { weight: &g, target: &row, softplus: true, own_target: false, out }
        } else {
            Loss::Softmax { row: Some((&row, &g)), column: Some((&column, &h)), stash: &[] }
        };
        all.push(
            nested_grad(x, y, 20.0, &prefixes, &pairs, loss, None, wanted, workspace, threads, isa).unwrap() as f32
        );
        all.extend(dx.iter().chain(&dy).map(|v| v.to_f32()));
        all.extend(lse.iter().chain(&coefficient));
    }
    all.into_iter().map(f32::to_bits).collect()
}

#[test]
fn results_have_the_same_bits_for_any_number_of_threads() {
    for isa in isas() {
        for (shape, workspace) in [((800, 450, 20), 1 << 26), ((800, 450, 20), 1 << 10), ((30, 2000, 20), 1 << 26)] {
            let one = all_results::<f32>(isa, shape, workspace, 1);
            assert!(one == all_results::<f32>(isa, shape, workspace, 2), "{} {shape:?} {workspace}", isa.name());
            assert!(all_results::<Bf16>(isa, shape, workspace, 1) == all_results::<Bf16>(isa, shape, workspace, 3));
        }
    }
}

#[test]
fn rows_of_zeros_stay_zeros() {
    let (xs, ys) = (vec![0f32; 3 * 4], vec![1f32; 5 * 4]);
    let (x, y) = (Matrix::new(&xs, 3, 4), Matrix::new(&ys, 5, 4));
    let prefixes = Prefixes::new(x, y, &[2, 4], true).unwrap();
    let out = nested_lse(x, y, 10.0, &prefixes, &PairArgs::default(), (true, true), 1, Isa::best()).unwrap();
    close("row", &out.row.unwrap(), &[5f64.ln(); 6], |_| 1e-6);
    close("column", &out.column.unwrap(), &[3f64.ln(); 10], |_| 1e-6);
}

#[test]
fn prefixes_that_do_not_fit_are_refused() {
    let xs = vec![0f32; 6];
    let x = Matrix::new(&xs, 2, 3);
    for dims in [&[][..], &[0, 2], &[2, 1], &[4]] {
        assert_eq!(Prefixes::new(x, x, dims, true).err(), Some(ArgumentError::Prefixes(3)), "{dims:?}");
    }
}
