//! Arrays that lie in memory of their own, in a mapped file or in somebody else's memory: read alike, copied before they are written.

use crate::stop::Stopped;
use memmap2::{Mmap, MmapMut};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes of a cache line; all sections begin on one.
pub(crate) const LINE: usize = 64;

enum Bytes {
    None,
    /// Anonymous memory, with room to grow. In huge pages where the system has them: a walk reads a few lines here and there, and would
    /// look up a page for each.
    Owned(MmapMut),
    /// From this byte on.
    Mapped(Arc<Mmap>, usize),
    Lent(Lent),
}

/// What keeps memory as it is while it lives.
pub type Owner = Box<dyn Send + Sync>;

struct Lent {
    at: *const u8,
    _owner: Owner,
}

// SAFETY: it is only read, and its owner may go to another thread.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

/// Plain numbers: all bits are values, no padding.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for i64 {}

/// `len` numbers.
pub(crate) struct Section<T> {
    bytes: Bytes,
    len: usize,
    plain: PhantomData<T>,
}

impl<T: Plain> Section<T> {
    pub(crate) fn new() -> Section<T> {
        Section { bytes: Bytes::None, len: 0, plain: PhantomData }
    }

    /// `len` zeros; None where there is no memory for them.
    pub(crate) fn zeros(len: usize) -> Option<Section<T>> {
        let bytes = len.checked_mul(size_of::<T>())?;
        let bytes = if bytes == 0 { Bytes::None } else { Bytes::Owned(anonymous(bytes).ok()?) };
        Some(Section { bytes, len, plain: PhantomData })
    }

    pub(crate) fn from_slice(values: &[T]) -> Section<T> {
        let mut section = Section::new();
        section.grow(values.len());
        section.to_mut().copy_from_slice(values);
        section
    }

    /// `values`, which stay where they are.
    ///
    /// # Safety
    /// While `owner` lives, they are there and nobody writes them.
    pub(crate) unsafe fn lent(values: &[T], owner: Owner) -> Section<T> {
        let bytes = Bytes::Lent(Lent { at: values.as_ptr().cast(), _owner: owner });
        Section { bytes, len: values.len(), plain: PhantomData }
    }

    /// `len` numbers of a file, from the byte `at`; None where that is not a cache line's beginning or reaches beyond the end.
    pub(crate) fn mapped(map: &Arc<Mmap>, at: usize, len: usize) -> Option<Section<T>> {
        let end = len.checked_mul(size_of::<T>())?.checked_add(at)?;
        (at.is_multiple_of(LINE) && end <= map.len()).then(|| Section {
            bytes: Bytes::Mapped(map.clone(), at),
            len,
            plain: PhantomData,
        })
    }

    /// To `len` numbers, further ones zero.
    ///
    /// Leaves with [`Stopped::Memory`] when there is no memory left.
    pub(crate) fn grow(&mut self, len: usize) {
        let wanted = len * size_of::<T>();
        let room = if let Bytes::Owned(owned) = &self.bytes { owned.len() } else { 0 };
        if wanted > room {
            // A quarter more than asked for where it grew before; pages that are not touched cost nothing.
            let size = if self.len == 0 { wanted } else { wanted + wanted / 4 };
            let mut owned = anonymous(size).unwrap_or_else(|_| Stopped::Memory(size).leave());
            let old = self.as_bytes();
            owned[..old.len()].copy_from_slice(old);
            self.bytes = Bytes::Owned(owned);
        }
        self.len = len;
    }

    /// To write; what lies elsewhere is copied first.
    pub(crate) fn to_mut(&mut self) -> &mut [T] {
        if let Bytes::Mapped(..) | Bytes::Lent(..) = self.bytes {
            *self = Section::from_slice(self);
        }
        let Bytes::Owned(owned) = &mut self.bytes else { return &mut [] };
        // SAFETY: it holds at least `len` numbers and begins on a page; any bits are numbers.
        unsafe { std::slice::from_raw_parts_mut(owned.as_mut_ptr().cast(), self.len) }
    }

    /// As they are written to a file: little-endian on every processor this runs on.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: plain numbers have no padding.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), size_of_val::<[T]>(self)) }
    }
}

impl<T: Plain> Deref for Section<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        let start = match &self.bytes {
            Bytes::None => return &[],
            Bytes::Owned(owned) => owned.as_ptr(),
            Bytes::Mapped(map, at) => map[*at..].as_ptr(),
            Bytes::Lent(lent) => lent.at,
        };
        // SAFETY: owned memory holds `len` numbers; a mapped range was checked when it was made, and maps begin on a page; lent ones are
        // there as long as their owner.
        unsafe { std::slice::from_raw_parts(start.cast(), self.len) }
    }
}

/// Zeros.
fn anonymous(bytes: usize) -> std::io::Result<MmapMut> {
    let map = MmapMut::map_anon(bytes)?;
    #[cfg(target_os = "linux")]
    map.advise(memmap2::Advice::HugePage).ok(); // a kernel without them is slower, no more
    Ok(map)
}
