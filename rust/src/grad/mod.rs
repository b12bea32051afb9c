//! Gradients: dX = scale · P Y and dY = scale · Pᵀ X, with P = ∂L/∂S made from a strip of scores and used while it is in the cache.
//!
//! The rows are walked through in chunks. For a chunk, each block of columns gives a block of P in the workspace, and at once its share
//! of dY, which belongs to that block of columns alone. When all blocks of the chunk are there, dX of the chunk follows, shared out by
//! rows. So nothing is added by two threads, and sums run in block order whatever the number of threads.
//! One-sided softmax needs the sum of a whole row before its P: the chunk's scores wait in the workspace (3u, no recompute).
//!
//! With prefixes of the coordinates there is a P for each, and coordinates are multiplied with the sum of those they take part in: see
//! `nested`. Everything then has one more, outermost dimension, which is 1 otherwise.

mod job;
mod nested;
mod unit;
mod walk;

use self::job::{Form, Job};
use self::walk::{Results, walk};
use crate::buffer::{Buffer, Shared};
use crate::error::{ArgumentError, length};
use crate::logsum::LogSum;
use crate::pairs::{LEFT_OUT, PairArgs, Pairs};
use crate::prefixes::Prefixes;
use crate::simd::{Isa, tile_shape};
use crate::stop::filled;
use crate::strip::{STRIP, Scoring, scores_are_finite};
use crate::team;
use crate::tile::{Elem, Matrix, column_panels};

/// Words between rows of a block of P: not a power of two.
const STRIDE: usize = STRIP + 16;
/// Rows of dX that one unit computes; a multiple of every tile's rows.
const SUB_ROWS: usize = 48;
/// Rows of a chunk, when the workspace allows: as many as columns in a block, so that dX and dY sum over equal lengths.
const CHUNK: usize = 384;

/// What is wanted, and where it goes. Slices are empty when not wanted.
pub struct Wanted<'a, E> {
    /// (M, D).
    pub x: &'a mut [E],
    /// (N, D).
    pub y: &'a mut [E],
    /// (M,): Σ_j P_ij.
    pub x_bias: &'a mut [f32],
    /// (N,): Σ_i P_ij.
    pub y_bias: &'a mut [f32],
}

impl<E> Wanted<'_, E> {
    fn any(&self) -> bool {
        !(self.x.is_empty() && self.y.is_empty() && self.x_bias.is_empty() && self.y_bias.is_empty())
    }
}

/// The loss whose P is wanted. LSEs are natural logarithms. With K prefixes every vector is (K, ·), and a loss is the sum of theirs.
pub enum Loss<'a> {
    /// P_ij = row_grad_i e^(s - row_lse_i) + column_grad_j e^(s - column_lse_j); either side may be missing.
    Softmax {
        /// (row_lse, row_grad).
        row: Option<(&'a [f32], &'a [f32])>,
        /// (column_lse, column_grad).
        column: Option<(&'a [f32], &'a [f32])>,
        /// Scores kept by `pair_lse`, (M, N) float16, or empty.
        stash: &'a [u16],
    },
    /// Rows of zero weight are left out: loss 0, lse −∞. loss_i = link(lse_i - target_i), P_ij = weight_i link'(·) e^(s - lse_i).
    Nll {
        /// (M,).
        weight: &'a [f32],
        /// (M,).
        target: &'a [f32],
        /// The link is softplus, not the identity.
        softplus: bool,
        /// Whether -weight_i link'(·) belongs on the diagonal of P: the target is the pair's own score.
        own_target: bool,
        /// Out: (M,) each.
        out: NllOut<'a>,
    },
    /// Rows of zero weight are left at zero. rows_i = Σ_j softplus(z s), P_ij = weight_i z sigmoid(z s), with z = -1 for flipped pairs.
    Softplus {
        /// (M,).
        weight: &'a [f32],
        /// Out: (M,).
        rows: &'a mut [f32],
    },
}

/// Where [`Loss::Nll`] puts its values.
pub struct NllOut<'a> {
    /// link(lse_i - target_i).
    pub loss: &'a mut [f32],
    /// Natural logarithm.
    pub lse: &'a mut [f32],
    /// weight_i link'(lse_i - target_i).
    pub coefficient: &'a mut [f32],
}

/// A row or column whose LSE is −∞ takes no part: e^(s - 1e30) is 0.
fn subtrahends(lse: &[f32], count: usize) -> Buffer {
    let finite: Vec<f32> = lse.iter().map(|&l| if l == f32::NEG_INFINITY { -LEFT_OUT } else { l }).collect();
    padded(&finite, count)
}

/// Elements behind every vector, so that whole tiles can be read.
const PADDING: usize = 64;

/// `count` vectors, each followed by [`PADDING`].
fn padded(values: &[f32], count: usize) -> Buffer {
    let len = values.len() / count;
    let mut out = Buffer::new((len + PADDING) * count);
    for k in 0..count {
        // SAFETY: the buffer holds count padded vectors.
        unsafe {
            let to = out.as_mut_ptr().add(k * (len + PADDING));
            std::ptr::copy_nonoverlapping(values[k * len..].as_ptr(), to, len);
        }
    }
    out
}

fn check<E>(
    (m, n, d, count): (usize, usize, usize, usize),
    loss: &Loss,
    diagonal: Option<&[f32]>,
    wanted: &Wanted<E>,
) -> Result<(), ArgumentError> {
    let optional = |name, wanted: usize, got: usize| if got == 0 { Ok(()) } else { length(name, wanted, got) };
    optional("x gradient", m * d, wanted.x.len())?;
    optional("y gradient", n * d, wanted.y.len())?;
    optional("x_bias gradient", m, wanted.x_bias.len())?;
    optional("y_bias gradient", n, wanted.y_bias.len())?;
    let (m, n, own) = (count * m, count * n, count * m.min(n));
    if let Some(g) = diagonal {
        length("diagonal_grad", own, g.len())?;
    }
    match loss {
        Loss::Softmax { row, column, stash } => {
            optional("stash", m * n, stash.len())?;
            if let Some((lse, grad)) = row {
                length("row_lse", m, lse.len())?;
                length("row_grad", m, grad.len())?;
            }
            if let Some((lse, grad)) = column {
                length("column_lse", n, lse.len())?;
                length("column_grad", n, grad.len())?;
            }
            Ok(())
        }
        Loss::Nll { weight, target, own_target, out, .. } => {
            length("weight", m, weight.len())?;
            length("target", m, target.len())?;
            if *own_target && n < m {
                return Err(ArgumentError::Partner { m: m / count, n: n / count });
            }
            length("loss", m, out.loss.len().min(out.lse.len()).min(out.coefficient.len()))
        }
        Loss::Softplus { weight, rows } => {
            length("weight", m, weight.len())?;
            length("rows", m, rows.len())
        }
    }
}

/// Gradients of the loss with respect to x, y and the biases, into `wanted`, and its values where it has some; returns ∂L/∂scale,
/// which needs the gradient of x or of y (0 without them).
///
/// A value that is not finite anywhere in the input, or scores that could leave float32, make every result NaN. `workspace` bounds the bytes of P (not of the packed
/// operands, which are as large as y); [`Loss::Nll`] needs at least 48 rows of scores.
///
/// # Errors
/// Lengths that do not fit, see also [`Pairs::new`].
///
/// # Panics
/// When x and y differ in their number of columns.
#[allow(clippy::too_many_arguments)]
pub fn pair_grad<E: Elem>(
    x: Matrix<E>,
    y: Matrix<E>,
    scale: f32,
    pairs: &PairArgs,
    loss: Loss,
    diagonal_grad: Option<&[f32]>,
    wanted: Wanted<E>,
    workspace: usize,
    threads: usize,
    isa: Isa,
) -> Result<f64, ArgumentError> {
    check((x.rows, y.rows, x.columns, 1), &loss, diagonal_grad, &wanted)?;
    let pairs = Pairs::new(pairs, x.rows, y.rows, threads, isa)?;
    let scoring = Scoring::new(&x, scale, &pairs, None);
    Ok(gradients(x, y, scoring, loss, diagonal_grad, wanted, workspace, threads, isa))
}

/// [`pair_grad`] for the scores of K prefixes: Σ_k of the losses, gradients of x and y. `pairs` without biases; no softplus and no stash.
///
/// # Errors
/// As [`pair_grad`].
///
/// # Panics
/// When x and y differ in their number of columns; for what prefixes do not have.
#[allow(clippy::too_many_arguments)]
pub fn nested_grad<E: Elem>(
    x: Matrix<E>,
    y: Matrix<E>,
    scale: f32,
    prefixes: &Prefixes,
    pairs: &PairArgs,
    loss: Loss,
    diagonal_grad: Option<&[f32]>,
    wanted: Wanted<E>,
    workspace: usize,
    threads: usize,
    isa: Isa,
) -> Result<f64, ArgumentError> {
    assert!(pairs.x_bias.or(pairs.y_bias).is_none() && wanted.x_bias.is_empty() && wanted.y_bias.is_empty());
    assert!(matches!(loss, Loss::Softmax { stash: [], .. } | Loss::Nll { .. }));
    check((x.rows, y.rows, x.columns, prefixes.len()), &loss, diagonal_grad, &wanted)?;
    let pairs = Pairs::new(pairs, x.rows, y.rows, threads, isa)?;
    let scoring = Scoring::new(&x, scale, &pairs, Some(prefixes));
    Ok(gradients(x, y, scoring, loss, diagonal_grad, wanted, workspace, threads, isa))
}

#[allow(clippy::too_many_arguments)]
fn gradients<E: Elem>(
    x: Matrix<E>,
    y: Matrix<E>,
    scoring: Scoring,
    mut loss: Loss,
    diagonal_grad: Option<&[f32]>,
    mut wanted: Wanted<E>,
    workspace: usize,
    threads: usize,
    isa: Isa,
) -> f64 {
    assert_eq!(x.columns, y.columns);
    let (m, n, d, k, count) = (x.rows, y.rows, x.columns, scoring.words, scoring.count());
    let (scale, pairs) = (scoring.unit, scoring.pairs);
    if !(scores_are_finite(&x, &y, scale) && pairs.finite()) {
        fill(&mut loss, &mut wanted, f32::NAN);
        return f64::NAN;
    }
    fill(&mut loss, &mut wanted, 0.0);
    let values_only = !wanted.any();
    if m == 0 || n == 0 || (values_only && matches!(loss, Loss::Softmax { .. })) {
        return 0.0;
    }

    let nothing = || Buffer::new((m + PADDING) * count);
    let (mut row_lse, mut row_grad) = (nothing(), nothing());
    let (mut column_lse, mut column_grad) = (Buffer::new(0), Buffer::new(0));
    let mut stashed: &[u16] = &[];
    let form = match &loss {
        Loss::Softmax { row, column, stash } => {
            stashed = stash;
            if let Some((lse, grad)) = row {
                (row_lse, row_grad) = (subtrahends(lse, count), padded(grad, count));
            }
            if let Some((lse, grad)) = column {
                (column_lse, column_grad) = (subtrahends(lse, count), padded(grad, count));
            }
            match (row, column) {
                (Some(_), Some(_)) => Form::Both,
                (None, Some(_)) => Form::Column,
                _ => Form::Row,
            }
        }
        Loss::Nll { weight, .. } => {
            row_grad = padded(weight, count);
            Form::Nll
        }
        Loss::Softplus { weight, .. } => {
            row_grad = padded(weight, count);
            Form::Softplus
        }
    };

    let (_, nr) = tile_shape(isa);
    let panels = column_panels(scoring.prefixes.map_or(&[(0, d)], |p| &p.ranges), nr);
    let columns_of_row = panels.len() * nr;
    // Scores that wait for the end of their row are float32; P alone takes the room of its own type.
    let p_stride = if form == Form::Nll { STRIDE } else { STRIP / E::PER_WORD + 16 };
    let row_bytes = count * p_stride * size_of::<f32>();
    // Nll keeps whole rows; the others may take the columns in superblocks.
    let (width, chunk) = if form == Form::Nll {
        (n, (workspace / (n.div_ceil(STRIP) * row_bytes) / SUB_ROWS * SUB_ROWS).clamp(SUB_ROWS, CHUNK))
    } else {
        (n.min((workspace / (CHUNK * row_bytes)).clamp(1, 24) * STRIP), CHUNK)
    };
    let chunk = chunk.min(m.next_multiple_of(SUB_ROWS));
    let one_superblock = width == n;
    let (want_x, want_y) = (!wanted.x.is_empty(), !wanted.y.is_empty());
    let blocks = width.div_ceil(STRIP);
    let words = |wanted: bool, words: usize| Buffer::new(if wanted { words } else { 0 });
    let y_stride = width.next_multiple_of(STRIP) / E::PER_WORD * nr;
    let x_stride = chunk / E::PER_WORD * nr;
    let mut p = Buffer::new(blocks * count * chunk * p_stride);
    let (mut x_panels, mut y_panels) =
        (words(stashed.is_empty(), chunk * k), words(stashed.is_empty(), width.next_multiple_of(STRIP) * k));
    let (mut x_columns, mut y_columns) =
        (words(want_y, panels.len() * x_stride), words(want_x, panels.len() * y_stride));
    let mut dx = words(want_x, if one_superblock { chunk } else { m } * columns_of_row);
    let mut dy = words(want_y, width * columns_of_row);
    let mut parts = filled(LogSum::EMPTY, if form == Form::Nll { blocks * count * chunk } else { 0 });
    let mut row_parts = filled(0f64, if form == Form::Softplus { blocks * chunk } else { 0 });
    let mut bias_parts = filled(0f64, if wanted.x_bias.is_empty() { 0 } else { blocks * chunk });
    let mut dscale = filled(0f64, if want_x { m } else { n });
    let maybe = |s: &mut [f64]| if s.is_empty() { Shared::null() } else { Shared::of(s) };

    // The coefficient of an own target becomes known row by row, in the shared `own`.
    let mut own = filled(0f32, if matches!(loss, Loss::Nll { own_target: true, .. }) { count * m } else { 0 });
    let on_diagonal = if diagonal_grad.is_some() || !own.is_empty() { m.min(n) } else { 0 };
    // Σ_j P s and Σ_i P s of every prefix, for what normalisation takes off a gradient.
    let nested = scoring.prefixes.is_some();
    let mut row_dot_parts = filled(0f64, if nested { blocks * count * chunk } else { 0 });
    let mut row_dot = filled(0f64, if nested { count * m } else { 0 });
    let mut column_dot = filled(0f64, if nested { count * n } else { 0 });
    let own_scores = match scoring.prefixes {
        Some(prefixes) if on_diagonal > 0 => prefixes.own_scores(x, y, scale),
        _ => vec![],
    };
    let own_shared = Shared::of(&mut own);
    let job = Job {
        x,
        y,
        scoring,
        count,
        panels,
        form,
        want_x,
        want_y,
        chunk,
        row_stride: m + PADDING,
        column_stride: n + PADDING,
        row_lse: row_lse.shared(),
        row_grad: row_grad.shared(),
        column_lse: column_lse.shared(),
        column_grad: column_grad.shared(),
        diagonal_grad: diagonal_grad.map(Shared::of_const).unwrap_or(if own.is_empty() {
            Shared::null()
        } else {
            own_shared
        }),
        diagonal: on_diagonal,
        stash: if stashed.is_empty() { std::ptr::null_mut() } else { stashed.as_ptr().cast_mut() },
        p: p.shared(),
        p_stride,
        x_panels: x_panels.shared(),
        x_columns: x_columns.shared(),
        y_panels: y_panels.shared(),
        y_columns: y_columns.shared(),
        x_stride,
        y_stride,
        dx: dx.shared(),
        dy: dy.shared(),
        padded: columns_of_row,
        y_bias: if wanted.y_bias.is_empty() { Shared::null() } else { Shared::of(wanted.y_bias) },
        parts: Shared::of(&mut parts),
        row_parts: maybe(&mut row_parts),
        bias_parts: maybe(&mut bias_parts),
        row_dot_parts: maybe(&mut row_dot_parts),
        column_dot: maybe(&mut column_dot),
    };
    let results = Results {
        scale,
        x: Shared::of(wanted.x),
        y: Shared::of(wanted.y),
        x_bias: Shared::of(wanted.x_bias),
        dscale: Shared::of(&mut dscale),
        row_dot: maybe(&mut row_dot),
        own_scores: &own_scores,
        own: own_shared,
        loss: loss.shared(),
    };
    team::run(threads, |team| walk(team, &job, &results, (width, one_superblock), values_only, isa));
    if want_x || want_y { dscale.iter().sum() } else { 0.0 }
}

fn fill<E: Elem>(loss: &mut Loss, wanted: &mut Wanted<E>, value: f32) {
    wanted.x.fill(E::from_f32(value));
    wanted.y.fill(E::from_f32(value));
    wanted.x_bias.fill(value);
    wanted.y_bias.fill(value);
    match loss {
        Loss::Softmax { .. } => {}
        Loss::Nll { out, .. } => {
            out.loss.fill(value);
            out.lse.fill(if value == 0.0 { f32::NEG_INFINITY } else { value });
            out.coefficient.fill(value);
        }
        Loss::Softplus { rows, .. } => rows.fill(value),
    }
}
