//! The store over real sockets: against s3sim, and against servers that answer as told.

mod common;
mod hostile;
mod identity;
mod s3;
