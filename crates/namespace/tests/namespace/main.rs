//! The tests of a namespace through its public face, over listers in memory.

mod common;
mod passing;
mod persistence;
mod reference;
mod tree;
