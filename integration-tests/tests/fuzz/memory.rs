//! An allocator that counts, so that an input's peak can be held against its size.
//!
//! It counts what is asked for, touched or not, by all threads of the process; a target has its process to itself. Past
//! [`BYTES_MAX`] it gives nothing any more: the process ends there instead of taking the machine with it. What C libraries
//! allocate by themselves is not seen here; the process's peak resident memory, which is printed too, has it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const BYTES_MAX: usize = 3 << 30;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

pub struct Counting;

fn take(bytes: usize) -> bool {
    let used = USED.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(used, Relaxed);
    used <= BYTES_MAX
}

fn give(bytes: usize) {
    USED.fetch_sub(bytes, Relaxed);
}

// SAFETY: every call is the system allocator's, which keeps the contract; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        give(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // While it moves, both may be there.
        if !take(size) {
            return std::ptr::null_mut();
        }
        let moved = unsafe { System.realloc(pointer, layout, size) };
        give(layout.size());
        moved
    }
}

/// Begins a measurement: what is in use now.
pub fn begin() -> usize {
    let used = USED.load(Relaxed);
    PEAK.store(used, Relaxed);
    used
}

/// How far above `begun` the process came since.
pub fn peak_since(begun: usize) -> usize {
    PEAK.load(Relaxed).saturating_sub(begun)
}

/// The most memory that this process has had resident, in bytes.
pub fn peak_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}
