//! The comparisons of `tests/engine/` and `tests/graph.rs` as a program of one thread: emulators of other processors often lack working
//! threads.

#[path = "../tests/engine/main.rs"]
#[allow(dead_code, unused_imports)]
mod engine;
#[path = "../tests/graph.rs"]
#[allow(dead_code, unused_imports)]
mod graph;

fn main() {
    let names: Vec<_> = simtile_core::Isa::ALL.into_iter().filter(|i| i.available()).map(|i| i.name()).collect();
    engine::whole_rows::every_op(1);
    graph::same_everywhere(1);
    println!("every op agrees with float64 on: {}", names.join(", "));
}
