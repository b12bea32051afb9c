//! The file of an exact index; see [`crate::file`].

use crate::directions::Directions;
use crate::file::section::Section;
use crate::file::{FileError, Kind, SECTIONS, WORDS};
use crate::simd::Isa;
use crate::store::{Content, ExactStore, FirstPass};
use crate::tile::Matrix;
use std::path::Path;

/// Words: d, n, next id, whether it has codes, scale, bias and ids; from the tenth, how many of its directions are in f32 and how many
/// lead. Sections: vectors, scale, bias, ids, directions. Files from before there were directions have zeros there, and programs from then
/// pass over what they do not know.
const EXACT: Kind = Kind { magic: *b"SIMTILEX", version: 1, what: "an exact index" };

impl ExactStore {
    /// Write vectors, scale, bias and `ids` (rising, one a row; None: the numbers of the rows) to `path`, in place of what is there.
    ///
    /// # Errors
    /// Those of the file system; the old file is then untouched.
    pub fn save(&self, path: &Path, ids: Option<&[i64]>, next_id: i64) -> Result<(), FileError> {
        let floats = |values: &Option<Vec<f32>>| Section::from_slice(values.as_deref().unwrap_or_default());
        let (scale, bias, kept) =
            (floats(&self.scale), floats(&self.bias), Section::from_slice(ids.unwrap_or_default()));
        let has = [self.codes, self.scale.is_some(), self.bias.is_some(), ids.is_some()].map(u64::from);
        let mut words = [0; WORDS];
        words[..3].copy_from_slice(&[self.d as u64, self.n as u64, next_id as u64]);
        words[3..7].copy_from_slice(&has);
        let (in_f32, leading) = self.directions.as_ref().map_or((0, 0), Directions::sizes);
        words[9..11].copy_from_slice(&[in_f32 as u64, leading as u64]);
        let directions = Section::from_slice(self.directions.as_ref().map_or(&[], Directions::matrix));
        let mut sections = [&[][..]; SECTIONS];
        sections[..4].copy_from_slice(&[self.vectors.as_bytes(), scale.as_bytes(), bias.as_bytes(), kept.as_bytes()]);
        sections[4] = directions.as_bytes();
        EXACT.save(path, self.metric, words, sections)
    }

    /// The store at `path`, its ids and the next: vectors are mapped, and packed anew. `verify`: compare checksums.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not a whole exact index of a version known here.
    pub fn open(
        path: &Path,
        verify: bool,
        threads: usize,
        isa: Isa,
    ) -> Result<(ExactStore, Option<Vec<i64>>, i64), FileError> {
        let file = EXACT.open(path, verify)?;
        let [d, n, next_id, codes, scale, bias, ids, _, _, in_f32, leading, ..] = file.words;
        let wrong = || file.damaged("its sizes");
        let (Ok(d), Ok(n), Ok(next_id)) = (usize::try_from(d), usize::try_from(n), i64::try_from(next_id)) else {
            return Err(wrong());
        };
        if d == 0 || [codes, scale, bias, ids].iter().any(|&flag| flag > 1) || (next_id as u64) < n as u64 {
            return Err(wrong());
        }
        let rows = |flag: u64| if flag == 1 { n } else { 0 };
        let values = |t: usize, flag: u64| -> Result<Option<Vec<f32>>, FileError> {
            let section = file.section::<f32>(t, rows(flag), 1)?;
            Ok((flag == 1).then(|| section.to_vec()))
        };
        let kept = file.section::<i64>(3, rows(ids), 1)?;
        let rising = kept.windows(2).all(|w| w[0] < w[1]);
        if !rising || kept.first().is_some_and(|&id| id < 0) || kept.last().is_some_and(|&id| id >= next_id) {
            return Err(file.damaged("its ids"));
        }
        let first_pass = match (codes, usize::try_from(leading).map_err(|_| wrong())?) {
            (0, _) => FirstPass::Floats,
            (_, 0) => FirstPass::Codes,
            (_, leading) => {
                let in_f32 = usize::try_from(in_f32).map_err(|_| wrong())?;
                let matrix = file.section::<f32>(4, d, d)?;
                let directions = Directions::new(Matrix::new(&matrix, d, d), (in_f32, leading), isa);
                FirstPass::Along(directions.map_err(|_| file.damaged("its directions"))?)
            }
        };
        let of = Content {
            metric: file.metric,
            d,
            vectors: file.section(0, n, d)?,
            scale: values(1, scale)?,
            bias: values(2, bias)?,
            first_pass,
        };
        let store = ExactStore::prepared(of, None, threads, isa).map_err(|_| file.damaged("its values"))?;
        Ok((store, (ids == 1).then(|| kept.to_vec()), next_id))
    }
}
