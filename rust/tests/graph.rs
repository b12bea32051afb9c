//! The graph index: the same bits on every instruction set, what a walk finds against f64, and files that are not what was written.

use proptest::prelude::*;
use simtile_core::Isa;
use simtile_core::exact::Metric;
use simtile_core::graph::{FileError, Graph, Wanted};
use simtile_core::tile::Matrix;
use std::path::PathBuf;

fn rows(n: usize, d: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n * d).map(|_| next() + next() + next()).collect()
}

/// A file of this process alone.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("simtile_{}_{name}", std::process::id()))
}

fn searched(isa: Isa, metric: Metric, d: usize, threads: usize) -> (Vec<f32>, Vec<i64>) {
    let (y, x) = (rows(900, d, 1), rows(20, d, 2));
    let mut graph = Graph::build(Matrix::new(&y[..800 * d], 800, d), metric, (16, 40), 3, threads, isa).unwrap();
    graph.add(Matrix::new(&y[800 * d..], 100, d), threads, isa).unwrap();
    graph.remove(&(0..900).step_by(9).collect::<Vec<_>>(), threads, isa).unwrap();
    let wanted = Wanted { k: 5, ef: 20, filter: None, exact: false };
    let found = graph.search(Matrix::new(&x, 20, d), wanted, threads, isa).unwrap();
    (found.scores, found.ids)
}

/// What every instruction set returns, against the portable one.
pub fn same_everywhere(threads: usize) {
    for d in [7, 130, 320] {
        for metric in [Metric::InnerProduct, Metric::Cosine, Metric::SquaredL2] {
            let wanted = searched(Isa::Portable, metric, d, 1);
            for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                assert!(searched(isa, metric, d, threads) == wanted, "{isa:?} {metric:?} {d}");
            }
        }
    }
}

#[test]
fn every_instruction_set_and_any_number_of_threads_give_the_same_bits() {
    same_everywhere(3);
}

#[test]
fn a_walk_finds_nearly_all_of_the_nearest() {
    let (y, x) = (rows(3000, 12, 1), rows(50, 12, 2));
    let isa = Isa::best();
    let graph = Graph::build(Matrix::new(&y, 3000, 12), Metric::SquaredL2, (32, 64), 0, 1, isa).unwrap();
    let wanted = Wanted { k: 10, ef: 80, filter: None, exact: false };
    let found = graph.search(Matrix::new(&x, 50, 12), wanted, 1, isa).unwrap().ids;
    let exact = graph.search(Matrix::new(&x, 50, 12), Wanted { exact: true, ..wanted }, 1, isa).unwrap().ids;
    let hits: usize =
        found.chunks(10).zip(exact.chunks(10)).map(|(f, e)| f.iter().filter(|id| e.contains(id)).count()).sum();
    assert!(hits >= 490, "{hits} of 500");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_file_is_taken_for_what_it_is_not(
        length in 0usize..60_000,
        flips in proptest::collection::vec((0usize..60_000, 1u8..), 0..5),
        verify: bool,
    ) {
        static SAVED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let saved = SAVED.get_or_init(|| {
            let y = rows(100, 9, 1);
            let graph = Graph::build(Matrix::new(&y, 100, 9), Metric::Cosine, (8, 16), 0, 1, Isa::best()).unwrap();
            let path = path("saved");
            graph.save(&path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            bytes
        });
        let mut bytes = saved.clone();
        // Half of all cases keep the length, so that damage is looked for in the middle.
        if length % 2 == 0 {
            bytes.truncate(length);
        }
        for &(at, flip) in &flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
        }
        let path = path("changed");
        std::fs::write(&path, &bytes).unwrap();
        let opened = Graph::open(&path, verify);
        std::fs::remove_file(&path).unwrap();
        match opened {
            Err(FileError::Io(error)) => prop_assert!(false, "{error}"),
            Err(_) => prop_assert!(bytes != *saved),
            Ok(graph) => {
                // Nothing changed that is read, or nobody looked: a search ends, and with checksums it is right.
                let x = rows(3, 9, 5);
                let wanted = Wanted { k: 4, ef: 10, filter: None, exact: false };
                let found = graph.search(Matrix::new(&x, 3, 9), wanted, 1, Isa::best()).unwrap();
                prop_assert_eq!(found.ids.len(), 12);
                prop_assert!(!verify || found.ids.iter().all(|&id| (0..100).contains(&id)));
            }
        }
    }
}

#[test]
fn a_breadth_beyond_all_items_costs_no_memory_and_changes_nothing() {
    let y = rows(60, 9, 5);
    let found = |breadth: usize| {
        let graph = Graph::build(Matrix::new(&y, 60, 9), Metric::Cosine, (8, breadth), 1, 1, Isa::best()).unwrap();
        let wanted = Wanted { k: 4, ef: 8, filter: None, exact: false };
        let found = graph.search(Matrix::new(&y, 60, 9), wanted, 1, Isa::best()).unwrap();
        (found.scores, found.ids)
    };
    assert!(found(1 << 40) == found(60));
}
