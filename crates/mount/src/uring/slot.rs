//! The memory of ring entries, and who may touch it.
//!
//! A [`Slot`] in hand is ours alone: head and payload may be read and written. Lending it to the
//! kernel gives it away, as [`Lent`], through which nothing can be touched. So two sides never
//! use one entry at once, by type.

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::wire::{HEAD_BYTES, Head};

/// The largest answer: what the kernel was told at INIT, [`crate::fuse::READ_MAX_BYTES`].
pub(super) const PAYLOAD_BYTES: usize = crate::fuse::READ_MAX_BYTES as usize;

/// From one head to the next: whole cache lines.
const HEAD_STRIDE: usize = 320;

/// The largest page of any machine; payloads begin at one.
const PAGE: usize = 65_536;

/// The entries of one queue thread: all heads, then all payloads. Only address space until used.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    len: usize,
    payloads_at: usize,
}

#[expect(unsafe_code, reason = "memory shared with the kernel")]
// SAFETY: plain memory; each part of it is reached through the one `Slot` that owns it.
unsafe impl Send for Memory {}
#[expect(unsafe_code, reason = "memory shared with the kernel")]
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    #[expect(unsafe_code, reason = "memory shared with the kernel")]
    fn drop(&mut self) {
        // SAFETY: mapped in `slots`; every slot holds the memory, so none is left, ours or lent.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Makes `count` slots.
///
/// # Errors
///
/// The kernel's, if it refuses the address space (about 1 MiB a slot).
#[expect(unsafe_code, reason = "memory shared with the kernel")]
pub(super) fn slots(count: usize) -> std::io::Result<Vec<Slot>> {
    let payloads_at = (count * HEAD_STRIDE).next_multiple_of(PAGE);
    let len = payloads_at + count * PAYLOAD_BYTES;
    let (access, flags) =
        (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: a new mapping at an address that the kernel chooses.
    let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, access, flags) }?;
    let start = NonNull::new(start.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
    let memory = Arc::new(Memory { start, len, payloads_at });
    let slot = |index| Slot { memory: Arc::clone(&memory), index, filled: 0 };
    Ok((0..count).map(slot).collect())
}

/// A ring entry in our hands.
#[derive(Debug)]
pub(super) struct Slot {
    memory: Arc<Memory>,
    index: usize,
    /// Bytes of the payload that answers may have touched: memory that stays resident.
    filled: usize,
}

impl Slot {
    /// Its place among the slots made together.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    fn head_start(&self) -> *mut u8 {
        self.memory.start.as_ptr().wrapping_add(self.index * HEAD_STRIDE)
    }

    fn payload_start(&self) -> *mut u8 {
        let at = self.memory.payloads_at + self.index * PAYLOAD_BYTES;
        self.memory.start.as_ptr().wrapping_add(at)
    }

    /// The head.
    #[expect(unsafe_code, reason = "memory shared with the kernel")]
    pub(super) fn head(&self) -> &Head {
        // SAFETY: within the mapping, which `self` keeps; nobody writes while `self` is borrowed.
        unsafe { &*self.head_start().cast::<Head>() }
    }

    /// The head, to write an answer.
    #[expect(unsafe_code, reason = "memory shared with the kernel")]
    pub(super) fn head_mut(&mut self) -> &mut Head {
        // SAFETY: within the mapping, which `self` keeps; `self` is the only way to it.
        unsafe { &mut *self.head_start().cast::<Head>() }
    }

    /// The first bytes of the payload: of a request, as its head says.
    #[expect(unsafe_code, reason = "memory shared with the kernel")]
    pub(super) fn payload(&self, len: usize) -> &[u8] {
        let len = len.min(PAYLOAD_BYTES);
        // SAFETY: within the mapping, which `self` keeps; nobody writes while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.payload_start(), len) }
    }

    /// The first bytes of the payload, to write an answer of at most `len` bytes.
    #[expect(unsafe_code, reason = "memory shared with the kernel")]
    pub(super) fn payload_mut(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(PAYLOAD_BYTES);
        self.filled = self.filled.max(len);
        // SAFETY: within the mapping, which `self` keeps; `self` is the only way to it.
        unsafe { std::slice::from_raw_parts_mut(self.payload_start(), len) }
    }

    /// Bytes of its payload that may be resident.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Gives the payload's memory back, the first page aside: a name may be in it.
    #[expect(unsafe_code, reason = "memory shared with the kernel")]
    pub(super) fn shrink(&mut self) {
        let page = rustix::param::page_size();
        if self.filled > page {
            let start = self.payload_start().wrapping_add(page);
            let len = self.filled.next_multiple_of(page) - page;
            // SAFETY: whole pages within our own payload, which nobody borrows; zeros afterwards.
            let _ = unsafe { rustix::mm::madvise(start.cast(), len, Advice::LinuxDontNeed) };
            self.filled = page;
        }
    }

    /// Where the kernel finds head and payload. The slot must be lent while it may look there.
    pub(super) fn parts(&self) -> [libc::iovec; 2] {
        [
            libc::iovec { iov_base: self.head_start().cast(), iov_len: HEAD_BYTES },
            libc::iovec { iov_base: self.payload_start().cast(), iov_len: PAYLOAD_BYTES },
        ]
    }

    /// Gives the slot away.
    pub(super) fn lend(self) -> Lent {
        Lent(self)
    }
}

/// A ring entry that the kernel may write to at any moment.
#[derive(Debug)]
pub(super) struct Lent(Slot);

impl Lent {
    /// Takes the slot back.
    ///
    /// # Safety
    ///
    /// The kernel must have completed the command with which the slot was lent.
    #[expect(unsafe_code, reason = "memory shared with the kernel")]
    pub(super) unsafe fn take_back(self) -> Slot {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_forget_what_was_shrunk_away() {
        let mut slots = slots(3).expect("address space");
        for (value, slot) in slots.iter_mut().enumerate() {
            slot.head_mut().fill(value as u8);
            slot.payload_mut(PAYLOAD_BYTES).fill(value as u8 + 10);
        }
        for (value, slot) in slots.iter_mut().enumerate() {
            assert!(slot.head().iter().all(|byte| *byte == value as u8));
            let payload = slot.payload(PAYLOAD_BYTES);
            assert!(payload.iter().all(|byte| *byte == value as u8 + 10));
            slot.shrink();
            let page = rustix::param::page_size();
            assert_eq!(slot.filled(), page);
            let payload = slot.payload(PAYLOAD_BYTES);
            assert!(payload[..page].iter().all(|byte| *byte == value as u8 + 10));
            assert!(payload[page..].iter().all(|byte| *byte == 0));
        }
    }
}
