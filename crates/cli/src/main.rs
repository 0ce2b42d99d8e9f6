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

/// What was freed goes back to the kernel after a second, not ten: a load's listings are large, short and
/// made by all threads in turn, so each thread's share of the heap kept what it had freed.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the allocator looks for its settings under this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 20] = b"dirty_decay_ms:1000\0";

fn main() -> ExitCode {
    let args = mount_options::rewrite_args(std::env::args_os().collect());
    ExitCode::from(cli::run(args))
}
