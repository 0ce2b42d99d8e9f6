//! How one inode is open: through the kernel alone (passthrough) or served by us (cached).
//!
//! The kernel imposes the rule: while any handle of an inode is open, every open must use the same
//! mode, and passthrough opens must use the same backing id; it answers EIO otherwise. A live
//! mapping of a cached handle keeps that handle open. One of a passthrough handle does not: the
//! kernel hands the mapping over to the backing file (`backing_file_mmap`). So the mode is chosen when the first handle opens, and joined by the others.
//!
//! # Invariants
//!
//! - The handles counted here enclose the kernel's: one is added before OPEN is answered and taken
//!   away when RELEASE arrives, which the kernel sends after it let go itself. Hence "no handle
//!   here" implies "no handle there", and the mode may change.
//! - At most one backing id is held per inode. It outlives the last handle (idle) until the object
//!   is to be evicted, too many are idle, or the inode is forgotten.
//! - While an open is being decided (the cached file may be open already), the object is in use.
//!
//! # Deliberately absent
//!
//! - No system call and no lock: the caller holds the inode's lock around each method, and drops
//!   what a method hands back (closing a backing id is an ioctl) after releasing it.

use std::sync::Arc;

/// What an open is answered with.
#[derive(Debug)]
pub(crate) enum Grant<B> {
    /// We answer the reads; the kernel keeps the pages.
    Cached,
    /// The kernel reads the backing file alone.
    Passthrough(Arc<B>),
}

/// The first step of an open.
#[derive(Debug)]
pub(crate) enum Begin<B> {
    /// The mode already in use.
    Join(Grant<B>),
    /// No handle was open; the idle backing id of an earlier open is used again.
    Reuse(Arc<B>),
    /// No handle is open: look whether the object is complete, then call [`OpenState::settle`], or
    /// [`OpenState::give_up`]. Drop what comes with it.
    Decide {
        /// The backing id of a file that the cache has dropped.
        outdated: Option<Arc<B>>,
    },
}

/// What an expiry of an idle backing id found.
#[derive(Debug)]
pub(crate) enum Expired<B> {
    /// It was idle and not used since the last look: drop it.
    Dropped(Arc<B>),
    /// In use, or used since the last look: look again later.
    Kept,
    /// There was none.
    Nothing,
}

/// The open handles of one inode and their common mode.
#[derive(Debug)]
pub(crate) struct OpenState<B> {
    handles: u32,
    deciding: u32,
    backing: Option<Arc<B>>,
    /// The mode of the open handles; meaningless while there is none.
    passthrough: bool,
    /// The idle backing id was used since the last [`OpenState::expire`].
    used: bool,
}

impl<B> Default for OpenState<B> {
    fn default() -> Self {
        Self { handles: 0, deciding: 0, backing: None, passthrough: false, used: false }
    }
}

impl<B> OpenState<B> {
    fn grant(&self) -> Grant<B> {
        match (&self.backing, self.passthrough) {
            (Some(backing), true) => Grant::Passthrough(Arc::clone(backing)),
            _ => Grant::Cached,
        }
    }

    /// Starts an open: counts the handle if the mode is known. `complete`: the cache still has the
    /// object whole. If not, an idle backing id is of a file that the cache dropped (found corrupt,
    /// or freed), and is given up.
    pub(crate) fn begin(&mut self, complete: bool) -> Begin<B> {
        if self.handles > 0 {
            self.handles += 1;
            return Begin::Join(self.grant());
        }
        if complete && let Some(backing) = self.backing.clone() {
            self.handles = 1;
            self.passthrough = true;
            self.used = true;
            return Begin::Reuse(backing);
        }
        // An open that is being decided may count on the backing id.
        let outdated = if self.deciding == 0 { self.backing.take() } else { None };
        self.deciding += 1;
        Begin::Decide { outdated }
    }

    /// Ends an open that [`Begin::Decide`] started, without a handle.
    pub(crate) fn give_up(&mut self) {
        self.deciding -= 1;
    }

    /// Ends an open that [`Begin::Decide`] started, with a backing id if one could be made. A
    /// second result is a backing id that came too late: drop it. The first result's flag is true
    /// if the candidate was taken.
    pub(crate) fn settle(&mut self, candidate: Option<B>) -> (Grant<B>, bool, Option<B>) {
        self.deciding -= 1;
        let decided = self.handles > 0 || self.backing.is_some();
        self.handles += 1;
        if decided {
            if self.handles == 1 {
                self.passthrough = true;
            }
            return (self.grant(), false, candidate);
        }
        self.passthrough = candidate.is_some();
        self.used = true;
        let taken = candidate.is_some();
        self.backing = candidate.map(Arc::new);
        (self.grant(), taken, None)
    }

    /// Takes a handle away. True if it was the last one.
    pub(crate) fn release(&mut self) -> bool {
        self.handles = self.handles.saturating_sub(1);
        self.handles == 0
    }

    /// True while a handle is open or an open is being decided.
    pub(crate) fn in_use(&self) -> bool {
        self.handles > 0 || self.deciding > 0
    }

    /// True if handles are open in cached mode.
    pub(crate) fn is_cached(&self) -> bool {
        self.handles > 0 && !self.passthrough
    }

    /// Gives up the idle backing id, if any, or refuses because the object is in use.
    pub(crate) fn let_go(&mut self) -> Result<Option<Arc<B>>, ()> {
        if self.in_use() { Err(()) } else { Ok(self.backing.take()) }
    }

    /// Second chance: gives up the idle backing id unless it was used since the last call.
    pub(crate) fn expire(&mut self) -> Expired<B> {
        if self.backing.is_none() {
            return Expired::Nothing;
        }
        if self.in_use() || std::mem::take(&mut self.used) {
            return Expired::Kept;
        }
        self.backing.take().map_or(Expired::Nothing, Expired::Dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(state: &mut OpenState<u32>, candidate: Option<u32>) -> Grant<u32> {
        assert!(matches!(state.begin(true), Begin::Decide { .. }));
        state.settle(candidate).0
    }

    #[test]
    fn the_mode_of_the_first_handle_is_joined_by_the_others() {
        let mut state = OpenState::default();
        assert!(matches!(decide(&mut state, None), Grant::Cached));
        assert!(matches!(state.begin(true), Begin::Join(Grant::Cached)));
        assert!(!state.release());
        assert!(state.release());
        assert!(matches!(decide(&mut state, Some(7)), Grant::Passthrough(id) if *id == 7));
        assert!(matches!(state.begin(true), Begin::Join(Grant::Passthrough(id)) if *id == 7));
    }

    #[test]
    fn of_two_opens_that_decide_at_once_the_second_joins_the_first() {
        let mut state = OpenState::default();
        assert!(matches!(state.begin(true), Begin::Decide { .. }));
        assert!(matches!(state.begin(true), Begin::Decide { .. }));
        assert!(matches!(state.settle(None), (Grant::Cached, false, None)));
        assert!(matches!(state.settle(Some(2)), (Grant::Cached, false, Some(2))));
        state.release();
        state.release();
        assert!(matches!(state.begin(true), Begin::Decide { .. }));
        assert!(matches!(state.begin(true), Begin::Decide { .. }));
        assert!(matches!(state.settle(Some(3)), (Grant::Passthrough(_), true, None)));
        let (grant, taken, late) = state.settle(Some(4));
        assert!(matches!(grant, Grant::Passthrough(id) if *id == 3));
        assert!(!taken);
        assert_eq!(late, Some(4));
    }

    #[test]
    fn a_decision_that_comes_after_the_first_handle_closed_uses_its_backing_id() {
        let mut state = OpenState::default();
        assert!(matches!(state.begin(true), Begin::Decide { .. }));
        assert!(matches!(state.begin(true), Begin::Decide { .. }));
        let _ = state.settle(Some(1));
        assert!(state.release());
        let (grant, taken, late) = state.settle(Some(2));
        assert!(matches!(grant, Grant::Passthrough(id) if *id == 1));
        assert!(!taken);
        assert_eq!(late, Some(2));
    }

    #[test]
    fn an_object_is_let_go_only_when_nobody_uses_it() {
        let mut state = OpenState::default();
        assert!(matches!(state.begin(true), Begin::Decide { .. }));
        assert!(state.let_go().is_err(), "an open is being decided");
        let _ = state.settle(Some(1));
        assert!(state.let_go().is_err(), "a handle is open");
        state.release();
        assert_eq!(state.let_go().expect("idle").as_deref(), Some(&1));
        assert_eq!(state.let_go().expect("idle"), None);
    }

    #[test]
    fn the_backing_id_of_a_file_that_the_cache_dropped_is_not_used_again() {
        let mut state = OpenState::default();
        let _ = decide(&mut state, Some(1));
        assert!(matches!(state.begin(false), Begin::Join(Grant::Passthrough(_))), "one mode");
        state.release();
        state.release();
        let Begin::Decide { outdated } = state.begin(false) else { panic!("used again") };
        assert_eq!(outdated.as_deref(), Some(&1));
        state.give_up();
        assert_eq!(state.let_go().expect("idle"), None);
    }

    #[test]
    fn an_idle_backing_id_gets_a_second_chance_and_is_then_dropped() {
        let mut state = OpenState::default();
        let _ = decide(&mut state, Some(1));
        assert!(matches!(state.expire(), Expired::Kept));
        state.release();
        assert!(matches!(state.expire(), Expired::Kept), "used since the last look");
        assert!(matches!(state.begin(true), Begin::Reuse(_)));
        state.release();
        assert!(matches!(state.expire(), Expired::Kept));
        assert!(matches!(state.expire(), Expired::Dropped(_)));
        assert!(matches!(state.expire(), Expired::Nothing));
    }
}
