//! The words everyone uses: objects and their versions, byte ranges and pages, directories, the
//! links of the read chain, and errors sorted by what the caller should do.
//!
//! # Invariants
//!
//! - An [`ObjectId`] names the bytes of one *version* of one object. Equal ids, equal bytes.
//! - [`BlockSource::read`] returns exactly the bytes asked for, or an error; never a short read.
//! - Losing a cache, at any moment, is safe: every link can be answered by the next one.
//!
//! # Deliberately absent
//!
//! - No IO, no clock, no randomness, no task: this crate is data and contracts.
//!
//! # Reading order
//!
//! [`object`] says what is read, [`source`] how links of the chain talk, [`directory`] what the
//! tree looks like, [`error`] what may go wrong, [`clock`] how time gets in.

pub mod clock;
mod column;
pub mod directory;
pub mod error;
pub mod object;
pub mod page;
pub mod source;
pub mod urgency;

pub use clock::Clock;
pub use directory::{Directory, DirectoryBuilder, EntryKind, EntryRef};
pub use error::ReadError;
pub use object::{ETag, ETagRef, Object, ObjectId, ObjectRef, SourceId, Version, VersionRef};
pub use source::{
    Access, AccessObserver, Arrival, BlockSource, CachedFile, CheckedSource, Foresight, Keeping,
    ListPage, ListRequest, ListedObject, Lister, NextUse, ObjectHolder, ObjectIndex, Ownership,
    Priority, Push, Residence, Summed, Tree,
};
pub use urgency::Urgency;
