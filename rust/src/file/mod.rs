//! One file an index: a header of [`HEADER`] bytes, then arrays as they lie in memory, each on a cache line's beginning.
//!
//! | bytes | |
//! |---|---|
//! | 0..8 | what it is |
//! | 8..12 | version, u32; a reader refuses a later one |
//! | 12..16 | metric: 0 ip, 1 cosine, 2 l2 |
//! | 16..120 | [`WORDS`] u64 that belong to the kind of index; the one at 80 is the file's length |
//! | 128..320 | for each of [`SECTIONS`] sections its beginning, its bytes and their XXH64: u64 |
//! | 504..512 | XXH64 of bytes 0..504 |
//!
//! All little-endian. A file is written beside the old one and takes its place when it is complete and on the disk: readers that have the
//! old one mapped keep it, and a crash leaves one of the two. Opening maps the file; the sections' checksums are compared then,
//! or, where the caller waives that, never: what damage does is then limited to wrong results, as long as whatever is read as a place
//! is checked where it is used.

mod checksum;
pub(crate) mod section;

use crate::exact::Metric;
use checksum::checksum;
use memmap2::Mmap;
use section::{LINE, Plain, Section};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

const HEADER: usize = 512;
/// Sections at most; unused ones are empty.
pub(crate) const SECTIONS: usize = 8;
/// Numbers of a header.
pub(crate) const WORDS: usize = 13;
/// The word that is the file's length.
const LENGTH: usize = 8;
const METRICS: [Metric; 3] = [Metric::InnerProduct, Metric::Cosine, Metric::SquaredL2];

/// Why a file is not an index.
#[derive(Debug, Error)]
pub enum FileError {
    /// It could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else.
    #[error("not {0}: it begins otherwise")]
    Foreign(&'static str),
    /// Of a version that is not known here.
    #[error("{what} of version {version}; this simtile reads versions up to {known}")]
    Newer {
        /// What it is.
        what: &'static str,
        /// Its version.
        version: u32,
        /// The latest that is known.
        known: u32,
    },
    /// Not what was written.
    #[error("{0} that is damaged: {1}")]
    Damaged(&'static str, &'static str),
}

/// A kind of index file.
pub(crate) struct Kind {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    /// "an exact index"
    pub(crate) what: &'static str,
}

fn put(header: &mut [u8], at: usize, value: u64) {
    header[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get(header: &[u8], at: usize) -> u64 {
    header[at..].first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
}

impl Kind {
    /// Write an index to `path`, in place of what is there. `words[8]` is filled in.
    ///
    /// # Errors
    /// Those of the file system; the old file is then untouched.
    pub(crate) fn save(
        &self,
        path: &Path,
        metric: Metric,
        words: [u64; WORDS],
        sections: [&[u8]; SECTIONS],
    ) -> Result<(), FileError> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?.to_os_string();
        name.push(format!(".{}.new", std::process::id()));
        let beside = path.with_file_name(name);
        let written = self.write(&beside, metric, words, sections).and_then(|()| fs::rename(&beside, path));
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

    fn write(&self, path: &Path, metric: Metric, words: [u64; WORDS], sections: [&[u8]; SECTIONS]) -> io::Result<()> {
        let mut header = [0u8; HEADER];
        header[..8].copy_from_slice(&self.magic);
        header[8..12].copy_from_slice(&self.version.to_le_bytes());
        let metric = METRICS.iter().position(|&m| m == metric).unwrap_or(0);
        header[12..16].copy_from_slice(&(metric as u32).to_le_bytes());
        for (t, value) in words.into_iter().enumerate() {
            put(&mut header, 16 + 8 * t, value);
        }
        let mut at = HEADER;
        for (t, bytes) in sections.iter().enumerate() {
            put(&mut header, 128 + 24 * t, at as u64);
            put(&mut header, 136 + 24 * t, bytes.len() as u64);
            put(&mut header, 144 + 24 * t, checksum(bytes));
            at += bytes.len().next_multiple_of(LINE);
        }
        put(&mut header, 16 + 8 * LENGTH, at as u64);
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

    /// Map the index at `path`; `verify`: compare the checksums of the sections that are asked for.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not a whole file of this kind, of a version known here.
    pub(crate) fn open(&self, path: &Path, verify: bool) -> Result<Opened, FileError> {
        let file = File::open(path)?;
        // A folder opens like a file, and an empty one cannot be mapped.
        if !file.metadata()?.is_file() || file.metadata()?.len() < HEADER as u64 {
            return Err(FileError::Foreign(self.what));
        }
        // SAFETY: index files are replaced, never written to: the bytes under a map do not change. Nothing is read from it that could
        // not have any value.
        let map = Arc::new(unsafe { Mmap::map(&file)? });
        let header = &map[..HEADER];
        if header[..8] != self.magic {
            return Err(FileError::Foreign(self.what));
        }
        let [version, metric] = [8, 12].map(|at| get(header, at) as u32);
        if version > self.version {
            return Err(FileError::Newer { what: self.what, version, known: self.version });
        }
        let words: [u64; WORDS] = std::array::from_fn(|t| get(header, 16 + 8 * t));
        let intact = get(header, HEADER - 8) == checksum(&header[..HEADER - 8]);
        let length = map.len() as u64;
        let metric = METRICS.get(metric as usize).copied();
        let opened =
            Opened { map, verify, what: self.what, version, metric: metric.unwrap_or(Metric::InnerProduct), words };
        if !intact {
            return Err(opened.damaged("its header"));
        }
        if words[LENGTH] != length {
            return Err(opened.damaged("another length than when it was written"));
        }
        if metric.is_none() {
            return Err(opened.damaged("its metric"));
        }
        Ok(opened)
    }
}

/// A mapped file whose header is intact.
pub(crate) struct Opened {
    map: Arc<Mmap>,
    verify: bool,
    what: &'static str,
    pub(crate) version: u32,
    pub(crate) metric: Metric,
    pub(crate) words: [u64; WORDS],
}

impl Opened {
    pub(crate) fn damaged(&self, what: &'static str) -> FileError {
        FileError::Damaged(self.what, what)
    }

    /// Section `t`, of `rows` rows of `width` numbers.
    pub(crate) fn section<T: Plain>(&self, t: usize, rows: usize, width: usize) -> Result<Section<T>, FileError> {
        let wrong = self.damaged("its table of sections");
        let [at, bytes, sum] = [128, 136, 144].map(|from| get(&self.map, from + 24 * t));
        let len = rows.checked_mul(width);
        let Some(len) = len.filter(|len| len.checked_mul(size_of::<T>()).is_some_and(|b| b as u64 == bytes)) else {
            return Err(wrong);
        };
        let section = usize::try_from(at).ok().and_then(|at| Section::mapped(&self.map, at, len)).ok_or(wrong)?;
        if self.verify && checksum(section.as_bytes()) != sum {
            return Err(self.damaged("a checksum differs"));
        }
        Ok(section)
    }
}
