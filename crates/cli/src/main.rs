//! The `feedline` command: reads the command line, runs one subcommand, ends with its exit code.
//!
//! # Invariants
//!
//! - One file per subcommand under `commands/`; a subcommand decides nothing that a daemon decides.
//! - Errors are printed in one place, [`failure::report`]; a closed output pipe is no error.
//! - A mount that may hang is looked at only through `/proc`, never with `stat` on it.
//!
//! # Deliberately absent
//!
//! - No settings of its own: the flags of `mount` are made from `node`'s table.
//! - No state: what daemons run is in their run directory, what they know is behind their socket.

mod background;
mod cli;
mod commands;
mod daemon;
mod failure;
mod mount_options;
mod mountinfo;
mod output;
mod settings;
mod unmount;

use std::process::ExitCode;

/// What one thread allocates another one frees, thousands of times a second: the C library's allocator
/// then takes locks for it, which is 5 % of the CPU of a cold epoch. Only where its pages are sure to
/// be the kernel's.
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A heap for each CPU, not four, and what was freed goes back to the kernel after a second, not ten: all
/// threads in turn make the large and short-lived lists of a load, so each heap kept as much as one of them needs.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the allocator looks for its settings under this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 40] = b"percpu_arena:percpu,dirty_decay_ms:1000\0";

fn main() -> ExitCode {
    let args = mount_options::rewrite_args(std::env::args_os().collect());
    ExitCode::from(cli::run(args))
}
