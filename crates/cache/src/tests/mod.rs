//! The cache against real directories, an in-memory store below it and injected disk faults.

mod admission;
mod copies;
mod dirs;
mod faults;
mod lend;
mod model;
mod push;
mod reads;
mod restart;
mod scale;
mod space;
mod support;
