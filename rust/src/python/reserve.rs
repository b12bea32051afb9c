//! A little memory kept back, so that running out of it is an exception and not the end of Python.
//!
//! A vector that finds no memory ends the process; what could be large is asked for first ([`crate::stop::room_for`]), but what is small
//! may be the last drop. Then the reserve is given up, and the computation leaves at its next checkpoint. The reserve is never
//! touched: it costs addresses only.

use crate::stop::{EXHAUSTED, Stopped};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

const BYTES: usize = 16 << 20;
/// What asks for more has to live with a no.
const SMALL: usize = BYTES / 8;
const LAYOUT: Layout = match Layout::from_size_align(BYTES, 64) {
    Ok(layout) => layout,
    Err(_) => panic!("64 is a power of two"),
};

static KEPT: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// Keep the reserve back, again where it was given up.
///
/// # Errors
/// There is not that much left.
pub(super) fn fill() -> Result<(), Stopped> {
    if !KEPT.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    // SAFETY: the layout is not empty.
    let kept = unsafe { System.alloc(LAYOUT) };
    if kept.is_null() {
        return Err(Stopped::Memory(BYTES));
    }
    EXHAUSTED.store(false, Ordering::Release);
    if KEPT.compare_exchange(null_mut(), kept, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: another thread was faster; this one's came from `System` with this layout.
        unsafe { System.dealloc(kept, LAYOUT) }
    }
    Ok(())
}

/// The system's allocator, and the reserve behind it.
struct Reserved;

#[global_allocator]
static ALLOCATOR: Reserved = Reserved;

impl Reserved {
    /// What `get` finds, after giving up the reserve if need be.
    #[inline(always)]
    fn or_give_up(size: usize, get: impl Fn() -> *mut u8) -> *mut u8 {
        let found = get();
        if !found.is_null() || size > SMALL { found } else { Reserved::give_up(get) }
    }

    #[cold]
    fn give_up(get: impl Fn() -> *mut u8) -> *mut u8 {
        EXHAUSTED.store(true, Ordering::Release);
        let kept = KEPT.swap(null_mut(), Ordering::AcqRel);
        if !kept.is_null() {
            // SAFETY: it came from `System` with this layout, and is no one else's now.
            unsafe { System.dealloc(kept, LAYOUT) }
        }
        get()
    }
}

// SAFETY: all memory is `System`'s, with the layouts that callers give; nothing unwinds.
unsafe impl GlobalAlloc for Reserved {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        Reserved::or_give_up(layout.size(), || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        Reserved::or_give_up(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; where it fails the old memory is untouched.
        Reserved::or_give_up(size, || unsafe { System.realloc(old, layout, size) })
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(old, layout) }
    }
}
