//! Rates of the engine's register tiles, beside the ceiling of the core and beside crates. Prints one JSON object a line.
//!
//!     cargo run --release -- ceilings THREADS      multiply-adds on registers, one and THREADS cores busy
//!     cargo run --release -- tiles D REPEATS       tile products and log-sum-exp, every instruction set, one thread
//!     cargo run --release -- crates D REPEATS      C = X Yᵀ of float32 by the engine's tile, gemm and matrixmultiply, one thread
//!
//! Rates are in 10⁹ operations per second of CPU time, which other processes do not shorten. Jobs that are compared take turns; quoted
//! are medians.

mod data;
mod peak;
mod product;
mod rivals;

use cpu_time::ThreadTime;
use data::{Dense, check};
use product::{Finish, Product};
use simtile_core::Isa;
use simtile_core::lse::pair_lse;
use simtile_core::pairs::PairArgs;
use simtile_core::scan::Code;
use simtile_core::tile::{Bf16, Elem};

/// Rows and columns of C; a multiple of 384, not of a large power of two.
const SIDE: usize = 11 * 384;
/// The same for instruction sets that only stand in for the best one.
const SMALL_SIDE: usize = 3 * 384;
const SCALE: f32 = 20.0;

/// Of this thread on a core: it never waits, so that on a machine of its own this is the time on the clock.
fn seconds(mut job: impl FnMut()) -> f64 {
    let begin = ThreadTime::now();
    job();
    begin.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Whether the instruction set has dot products of this type; else it widens, and a ceiling of its own means nothing.
fn native<E: Elem>(isa: Isa) -> bool {
    E::PER_WORD == 1 || isa == Isa::Avx512Bf16
}

fn ceilings(threads: usize) {
    fn one<E: Elem>(isa: Isa, dtype: &str, threads: usize) {
        if native::<E>(isa) {
            for busy in if threads > 1 { vec![1, threads] } else { vec![1] } {
                let rate = peak::peak::<E>(isa, busy) / 1e9;
                println!(
                    r#"{{"what": "ceiling", "isa": "{}", "dtype": "{dtype}", "threads": {busy}, "rate": {rate:.1}}}"#,
                    isa.name()
                );
            }
        }
    }
    for isa in available() {
        one::<f32>(isa, "float32", threads);
        one::<Bf16>(isa, "bfloat16", threads);
        one::<Code>(isa, "int8", threads);
    }
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// Elements so that scores look like those of unit vectors; bytes use their whole range.
fn operands<E: Elem>(side: usize, d: usize) -> (Dense<E>, Dense<E>) {
    let bytes = E::PER_WORD == 4;
    let limit = if bytes { 127.0 } else { (3.0 / d as f32).sqrt() };
    (Dense::random(side, d, 1, limit, bytes), Dense::random(side, d, 2, limit, false))
}

fn tiles(d: usize, repeats: usize) {
    for isa in available() {
        let side = if isa == Isa::best() { SIDE } else { SMALL_SIDE };
        tile_of::<f32>(isa, "float32", side, d, repeats, Some(row_and_column_lse));
        tile_of::<Bf16>(isa, "bfloat16", side, d, repeats, Some(row_and_column_lse));
        tile_of::<Code>(isa, "int8", side, d, repeats, None);
    }
}

fn row_and_column_lse<E: Elem>(x: &Dense<E>, y: &Dense<E>, isa: Isa) {
    let nothing_left_out = PairArgs::default();
    let lse = pair_lse(x.matrix(), y.matrix(), SCALE, &nothing_left_out, (true, true), &mut [], 1, isa);
    let lse = lse.expect("arguments without biases and lists");
    assert!(lse.row.is_some_and(|row| row[0].is_finite()) && lse.column.is_some_and(|column| column[0].is_finite()));
}

type Reduction<E> = fn(&Dense<E>, &Dense<E>, Isa);

fn tile_of<E: Elem>(isa: Isa, dtype: &str, side: usize, d: usize, repeats: usize, reduction: Option<Reduction<E>>) {
    let (x, y) = operands::<E>(side, d);
    let mut product = Product::new(&x, &y, isa);
    product.run(Finish::Stored);
    check(&format!("{} {dtype}", isa.name()), &x, &y, |i, j| product.stored(i, j));
    let (mut bare, mut packed, mut lse) = (vec![], vec![], vec![]);
    for _ in 0..repeats {
        bare.push(seconds(|| product.run(Finish::Nothing)));
        packed.push(seconds(|| product.run(Finish::Packed)));
        if let Some(reduce) = reduction {
            lse.push(seconds(|| reduce(&x, &y, isa)));
        }
    }
    let flop = 2.0 * (side * side * d) as f64;
    let rate = |times| flop / median(times) / 1e9;
    let lse = if lse.is_empty() { "null".to_owned() } else { format!("{:.1}", rate(lse)) };
    println!(
        r#"{{"what": "tile", "isa": "{}", "dtype": "{dtype}", "side": {side}, "dim": {d}, "rate": {:.1}, "packed_rate": {:.1}, "lse_rate": {lse}}}"#,
        isa.name(),
        rate(bare),
        rate(packed)
    );
}

fn crates(d: usize, repeats: usize) {
    let (x, y) = operands::<f32>(SIDE, d);
    let mut product = Product::new(&x, &y, Isa::best());
    let mut c = vec![0f32; SIDE * SIDE];
    product.run(Finish::Stored);
    check("tile", &x, &y, |i, j| product.stored(i, j));
    rivals::gemm(x.matrix(), y.matrix(), &mut c);
    check("gemm", &x, &y, |i, j| f64::from(c[i * SIDE + j]));
    c.fill(0.0);
    rivals::matrixmultiply(x.matrix(), y.matrix(), &mut c);
    check("matrixmultiply", &x, &y, |i, j| f64::from(c[i * SIDE + j]));
    let mut times = [vec![], vec![], vec![]];
    for _ in 0..repeats {
        times[0].push(seconds(|| product.run(Finish::Stored)));
        times[1].push(seconds(|| rivals::gemm(x.matrix(), y.matrix(), &mut c)));
        times[2].push(seconds(|| rivals::matrixmultiply(x.matrix(), y.matrix(), &mut c)));
    }
    let flop = 2.0 * (SIDE * SIDE * d) as f64;
    for (name, times) in ["simtile tile", "gemm", "matrixmultiply"].into_iter().zip(times) {
        let rate = flop / median(times) / 1e9;
        println!(r#"{{"what": "crate", "name": "{name}", "side": {SIDE}, "dim": {d}, "rate": {rate:.1}}}"#);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|n| n.parse::<usize>().ok()).filter(|&n| n > 0);
    match (arguments.first().map(String::as_str), number(1), number(2)) {
        (Some("ceilings"), Some(threads), None) => ceilings(threads),
        (Some("tiles"), Some(d), Some(repeats)) => tiles(d, repeats),
        (Some("crates"), Some(d), Some(repeats)) => crates(d, repeats),
        _ => {
            eprintln!("usage: ceilings THREADS | tiles D REPEATS | crates D REPEATS");
            std::process::exit(2);
        }
    }
}
