//! One file an index: a header of [`HEADER`] bytes, then the arrays as they lie in memory, each on a cache line's beginning.
//!
//! | bytes | |
//! |---|---|
//! | 0..8 | `SIMTILEG` |
//! | 8..12 | version, u32; a reader refuses a later one |
//! | 12..16 | metric: 0 ip, 1 cosine, 2 l2 |
//! | 16..96 | d, slots, live, next id, degree, breadth, seed, entries, file length, 0: u64 |
//! | 96..120 | σ, M², ‖z‖ of the coder: f64 |
//! | 128..320 | for each of the 8 sections its beginning, its bytes and their XXH64: u64 |
//! | 504..512 | XXH64 of bytes 0..504 |
//!
//! All little-endian. A file is written beside the old one and takes its place when it is complete and on the disk: readers that have the
//! old one mapped keep it, and a crash leaves one of the two. Opening maps the file; the sections' checksums are compared then,
//! or, where the caller waives that, never: what damage does is then limited to wrong results, since whatever is read as a vertex
//! is checked where it is used.

use super::checksum::checksum;
use super::codes::{Coder, Layout};
use super::prune::MAX_DEGREE;
use super::section::{LINE, Section};
use super::{Graph, MOST};
use crate::exact::Metric;
use memmap2::Mmap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

const MAGIC: &[u8; 8] = b"SIMTILEG";
const VERSION: u32 = 1;
const HEADER: usize = 512;
const SECTIONS: usize = 8;
const METRICS: [Metric; 3] = [Metric::InnerProduct, Metric::Cosine, Metric::SquaredL2];

/// Why a file is not an index.
#[derive(Debug, Error)]
pub enum FileError {
    /// It could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else than a graph index.
    #[error("not a graph index: it begins otherwise")]
    Foreign,
    /// Of a version that is not known here.
    #[error("a graph index of version {0}; this simtile reads versions up to {VERSION}")]
    Newer(u32),
    /// Not what was written.
    #[error("a damaged graph index: {0}")]
    Damaged(&'static str),
}

fn put(header: &mut [u8], at: usize, value: u64) {
    header[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get(header: &[u8], at: usize) -> u64 {
    header[at..].first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
}

impl Graph {
    /// Write the index to `path`, in place of what is there.
    ///
    /// # Errors
    /// Those of the file system; the old file is then untouched.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?.to_os_string();
        name.push(format!(".{}.new", std::process::id()));
        let beside = path.with_file_name(name);
        let written = self.write(&beside).and_then(|()| fs::rename(&beside, path));
        if written.is_err() {
            fs::remove_file(&beside).ok();
        }
        written?;
        // The new name itself, where the system can open folders.
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Ok(folder) = File::open(folder) {
            folder.sync_all().ok();
        }
        Ok(())
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let (center, entries) = (Section::from_slice(&self.coder.center), Section::from_slice(&self.entries));
        let sections: [&[u8]; SECTIONS] = [
            center.as_bytes(),
            entries.as_bytes(),
            self.ids.as_bytes(),
            self.vectors.as_bytes(),
            self.inverse.as_bytes(),
            self.codes.as_bytes(),
            self.signs.as_bytes(),
            self.edges.as_bytes(),
        ];
        let mut header = [0u8; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let metric = METRICS.iter().position(|&m| m == self.coder.metric).unwrap_or(0);
        header[12..16].copy_from_slice(&(metric as u32).to_le_bytes());
        let numbers = [
            self.dim() as u64,
            self.slots() as u64,
            self.live as u64,
            self.next_id as u64,
            self.degree as u64,
            self.breadth as u64,
            self.seed,
            self.entries.len() as u64,
        ];
        for (t, value) in numbers.into_iter().enumerate() {
            put(&mut header, 16 + 8 * t, value);
        }
        let Coder { scale, largest_square, typical_norm, .. } = self.coder;
        for (t, value) in [scale, largest_square, typical_norm].into_iter().enumerate() {
            put(&mut header, 96 + 8 * t, value.to_bits());
        }
        let mut at = HEADER;
        for (t, bytes) in sections.iter().enumerate() {
            put(&mut header, 128 + 24 * t, at as u64);
            put(&mut header, 136 + 24 * t, bytes.len() as u64);
            put(&mut header, 144 + 24 * t, checksum(bytes));
            at += bytes.len().next_multiple_of(LINE);
        }
        put(&mut header, 80, at as u64);
        let sum = checksum(&header[..HEADER - 8]);
        put(&mut header, HEADER - 8, sum);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&header)?;
        for bytes in sections {
            file.write_all(bytes)?;
            file.write_all(&[0; LINE][..bytes.len().next_multiple_of(LINE) - bytes.len()])?;
        }
        file.into_inner()?.sync_all()
    }

    /// Map the index at `path`; `verify`: read all of it and compare checksums.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not a whole graph index of a version known here.
    pub fn open(path: &Path, verify: bool) -> Result<Graph, FileError> {
        let file = File::open(path)?;
        // A folder opens like a file, and an empty one cannot be mapped.
        if !file.metadata()?.is_file() || file.metadata()?.len() < HEADER as u64 {
            return Err(FileError::Foreign);
        }
        // SAFETY: index files are replaced, never written to: the bytes under a map do not change. Nothing is read from it that could
        // not have any value.
        let map = Arc::new(unsafe { Mmap::map(&file)? });
        Graph::from_map(&map, verify)
    }

    fn from_map(map: &Arc<Mmap>, verify: bool) -> Result<Graph, FileError> {
        use FileError::Damaged;
        let header = &map[..HEADER];
        if &header[..8] != MAGIC {
            return Err(FileError::Foreign);
        }
        let [version, metric] = [8, 12].map(|at| get(header, at) as u32);
        if version > VERSION {
            return Err(FileError::Newer(version));
        }
        if get(header, HEADER - 8) != checksum(&header[..HEADER - 8]) {
            return Err(Damaged("its header"));
        }
        let [d, slots, live, next_id, degree, breadth, seed, entries, length] =
            std::array::from_fn(|t| get(header, 16 + 8 * t));
        if length != map.len() as u64 {
            return Err(Damaged("another length than when it was written"));
        }
        let metric = *METRICS.get(metric as usize).ok_or(Damaged("its metric"))?;
        let fits = (1..=1 << 32).contains(&d)
            && slots < MOST as u64
            && live <= slots
            && i64::try_from(next_id).is_ok()
            && (1..=MAX_DEGREE as u64).contains(&degree)
            && breadth < MOST as u64
            && entries <= live;
        if !fits {
            return Err(Damaged("its sizes"));
        }
        let [d, slots, degree, entries] = [d, slots, degree, entries].map(|v| v as usize);
        let layout = Layout::new(d);
        let inverse = if metric == Metric::Cosine { slots } else { 0 };
        let part = Parts { map, verify };
        let center = part.section::<f32>(0, d, 1)?;
        let coder = |v: usize| f64::from_bits(get(header, 96 + 8 * v));
        Ok(Graph {
            coder: Coder::new(metric, d, seed, coder(0), center.to_vec(), coder(1), coder(2)),
            degree,
            breadth: breadth as usize,
            seed,
            live: live as usize,
            next_id: next_id as i64,
            entries: part.section::<u32>(1, entries, 1)?.to_vec(),
            ids: part.section(2, slots, 1)?,
            vectors: part.section(3, slots, d)?,
            inverse: part.section(4, inverse, 1)?,
            codes: part.section(5, slots, layout.code_bytes)?,
            signs: part.section(6, slots, layout.sign_bytes)?,
            edges: part.section(7, slots, degree)?,
        })
    }
}

struct Parts<'a> {
    map: &'a Arc<Mmap>,
    verify: bool,
}

impl Parts<'_> {
    /// Section `t`, of `rows` rows of `width` numbers.
    fn section<T: super::section::Plain>(&self, t: usize, rows: usize, width: usize) -> Result<Section<T>, FileError> {
        let wrong = FileError::Damaged("its table of sections");
        let [at, bytes, sum] = [128, 136, 144].map(|from| get(self.map, from + 24 * t));
        let len = rows.checked_mul(width);
        let Some(len) = len.filter(|len| len.checked_mul(size_of::<T>()).is_some_and(|b| b as u64 == bytes)) else {
            return Err(wrong);
        };
        let section = usize::try_from(at).ok().and_then(|at| Section::mapped(self.map, at, len)).ok_or(wrong)?;
        if self.verify && checksum(section.as_bytes()) != sum {
            return Err(FileError::Damaged("a checksum differs"));
        }
        Ok(section)
    }
}
