//! The file of a graph index; see [`crate::file`].
//!
//! Words: d, slots, live, next id, degree, breadth, seed, entries, (length), 0, then σ, M² and ‖z‖ of the coder as f64. Sections: center,
//! entries, ids, vectors, inverse norms, codes, signs, edges. Version 1 had other codes and signs: they are made anew.

use super::codes::{Coder, Layout};
use super::prune::MAX_DEGREE;
use super::{Graph, MOST};
use crate::exact::Metric;
use crate::file::section::Section;
use crate::file::{FileError, Kind};
use crate::simd::Isa;
use std::path::Path;

const GRAPH: Kind = Kind { magic: *b"SIMTILEG", version: 2, what: "a graph index" };

/// The version whose codes are those of [`Coder`].
const RECODED: u32 = 2;

impl Graph {
    /// Write the index to `path`, in place of what is there.
    ///
    /// # Errors
    /// Those of the file system; the old file is then untouched.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        self.save_as(&GRAPH, path)
    }

    fn save_as(&self, kind: &Kind, path: &Path) -> Result<(), FileError> {
        let (center, entries) = (Section::from_slice(&self.coder.center), Section::from_slice(&self.entries));
        let Coder { scale, largest_square, typical_norm, .. } = self.coder;
        let words = [
            self.dim() as u64,
            self.slots() as u64,
            self.live as u64,
            self.next_id as u64,
            self.degree as u64,
            self.breadth as u64,
            self.seed,
            self.entries.len() as u64,
            0,
            0,
            scale.to_bits(),
            largest_square.to_bits(),
            typical_norm.to_bits(),
        ];
        let sections = [
            center.as_bytes(),
            entries.as_bytes(),
            self.ids.as_bytes(),
            self.vectors.as_bytes(),
            self.inverse.as_bytes(),
            self.codes.as_bytes(),
            self.signs.as_bytes(),
            self.edges.as_bytes(),
        ];
        kind.save(path, self.coder.metric, words, sections)
    }

    /// Map the index at `path`; `verify`: read all of it and compare checksums.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not a whole graph index of a version known here.
    pub fn open(path: &Path, verify: bool) -> Result<Graph, FileError> {
        let file = GRAPH.open(path, verify)?;
        let [d, slots, live, next_id, degree, breadth, seed, entries, ..] = file.words;
        let fits = (1..=1 << 32).contains(&d)
            && slots < MOST as u64
            && live <= slots
            && i64::try_from(next_id).is_ok()
            && (1..=MAX_DEGREE as u64).contains(&degree)
            && breadth < MOST as u64
            && entries <= live;
        if !fits {
            return Err(file.damaged("its sizes"));
        }
        let [d, slots, degree, entries] = [d, slots, degree, entries].map(|v| v as usize);
        let layout = Layout::new(d);
        let inverse = if file.metric == Metric::Cosine { slots } else { 0 };
        let center = file.section::<f32>(0, d, 1)?;
        let [scale, largest_square, typical_norm] = [10, 11, 12].map(|t| f64::from_bits(file.words[t]));
        let mut graph = Graph {
            coder: Coder::new(file.metric, d, seed, scale, center.to_vec(), largest_square, typical_norm),
            degree,
            breadth: breadth as usize,
            seed,
            live: live as usize,
            next_id: next_id as i64,
            entries: file.section::<u32>(1, entries, 1)?.to_vec(),
            ids: file.section(2, slots, 1)?,
            vectors: file.section(3, slots, d)?,
            inverse: file.section(4, inverse, 1)?,
            codes: Section::new(),
            signs: Section::new(),
            edges: file.section(7, slots, degree)?,
        };
        if file.version < RECODED {
            graph.encode(0, 1, Isa::best());
        } else {
            graph.codes = file.section(5, slots, layout.code_bytes)?;
            graph.signs = file.section(6, slots, layout.sign_bytes)?;
        }
        Ok(graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Wanted;
    use crate::tile::Matrix;

    #[test]
    fn a_file_of_version_1_is_read_with_codes_made_anew() {
        for (d, metric) in [(7, Metric::SquaredL2), (130, Metric::Cosine)] {
            let y: Vec<f32> = (0..500 * d).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
            let mut graph = Graph::build(Matrix::new(&y, 500, d), metric, (16, 40), 3, 1, Isa::best()).unwrap();
            graph.remove(&[3, 77], 1, Isa::best()).unwrap();
            let searched = |graph: &Graph| {
                let wanted = Wanted { k: 5, ef: 20, filter: None, exact: false };
                let found = graph.search(Matrix::new(&y[..20 * d], 20, d), wanted, 1, Isa::best()).unwrap();
                (found.scores, found.ids)
            };
            let wanted = searched(&graph);
            // Whatever they were.
            graph.codes.to_mut().fill(0xa5);
            graph.signs.to_mut().fill(0x5a);
            let path = std::env::temp_dir().join(format!("simtile_{}_version_1_{d}", std::process::id()));
            graph.save_as(&Kind { version: 1, ..GRAPH }, &path).unwrap();
            let opened = Graph::open(&path, true).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert!(searched(&opened) == wanted, "{d}");
        }
    }
}
