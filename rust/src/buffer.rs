//! Workspaces: zeroed, aligned to a cache line, shared between the threads of a team by pointer.

use crate::error::ArgumentError;
use crate::stop::filled;

/// `rows` lists of `k` times `value`: as many results as a caller asks for, which may be more than there is memory.
///
/// # Errors
/// [`ArgumentError::Memory`], where a vector would end the process.
pub fn results<T: Clone>(rows: usize, k: usize, value: T) -> Result<Vec<T>, ArgumentError> {
    let mut out = Vec::new();
    let held = rows.checked_mul(k).is_some_and(|len| out.try_reserve_exact(len).is_ok());
    if !held {
        return Err(ArgumentError::Memory { name: "k", rows, got: k });
    }
    out.resize(rows * k, value);
    Ok(out)
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// `len` zeroed 32-bit words.
pub struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// Pages that are never touched cost nothing: the zeros come from the allocator.
    pub fn new(len: usize) -> Buffer {
        Buffer { lines: filled(Line([0.0; 16]), len.div_ceil(16).max(1)) }
    }

    /// For threads that write disjoint parts.
    pub fn shared(&mut self) -> Shared<f32> {
        Shared(self.lines.as_mut_ptr().cast())
    }

    /// Its words, to read.
    pub fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    /// Its words.
    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }
}

/// A pointer that a team shares. Whoever writes through it owns the part it writes.
pub struct Shared<T>(*mut T);

// SAFETY: it is only a pointer; its users write disjoint parts between two barriers.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

impl<T> Shared<T> {
    /// A slice to be filled by a team.
    pub fn of(slice: &mut [T]) -> Shared<T> {
        Shared(slice.as_mut_ptr())
    }

    /// A slice that is only read.
    pub fn of_const(slice: &[T]) -> Shared<T> {
        Shared(slice.as_ptr().cast_mut())
    }

    /// Nothing; never to be written.
    pub fn null() -> Shared<T> {
        Shared(std::ptr::null_mut())
    }

    /// Whether it is [`Shared::null`].
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The element `at`, as a pointer.
    ///
    /// # Safety
    /// `at` lies inside (or one past) the allocation.
    #[inline(always)]
    pub unsafe fn at(self, at: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(at) }
    }
}
