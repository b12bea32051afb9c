//! The file of a graph index; see [`crate::file`].
//!
//! Words: d, slots, live, next id, degree, breadth, seed, entries, (length), 0, then σ, M² and ‖z‖ of the coder as f64. Sections: center,
//! entries, ids, vectors, inverse norms, codes, signs, edges.

use super::codes::{Coder, Layout};
use super::prune::MAX_DEGREE;
use super::{Graph, MOST};
use crate::exact::Metric;
use crate::file::section::Section;
use crate::file::{FileError, Kind};
use std::path::Path;

const GRAPH: Kind = Kind { magic: *b"SIMTILEG", version: 1, what: "a graph index" };

impl Graph {
    /// Write the index to `path`, in place of what is there.
    ///
    /// # Errors
    /// Those of the file system; the old file is then untouched.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
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
        GRAPH.save(path, self.coder.metric, words, sections)
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
        Ok(Graph {
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
            codes: file.section(5, slots, layout.code_bytes)?,
            signs: file.section(6, slots, layout.sign_bytes)?,
            edges: file.section(7, slots, degree)?,
        })
    }
}
