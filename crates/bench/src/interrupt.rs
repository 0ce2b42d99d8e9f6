//! Ctrl-C in the middle of a measurement, noticed between two reads.
//!
//! The measurement then ends with an error, so that every guard (mounts, processes, scratch files)
//! is dropped in order. A second signal ends the process at once; what it started asked the kernel to
//! be ended with it. Without [`watch`], signals end the process as usual.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a pause looks for a signal.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a shell reports for a program that Ctrl-C ended.
const EXIT_CODE: i32 = 130;

/// From now on the first signal sets a flag.
pub(crate) fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal)
    };
    let wait = move || {
        runtime.block_on(async {
            for last in [false, true] {
                let [a, b, c] = signals.each_mut().map(|signal| async {
                    match signal {
                        Ok(signal) => drop(signal.recv().await),
                        Err(_) => std::future::pending().await,
                    }
                });
                tokio::select! { () = a => (), () = b => (), () = c => () }
                if last {
                    std::process::exit(EXIT_CODE);
                }
                INTERRUPTED.store(true, Ordering::Relaxed);
                eprintln!("interrupted: taking mounts and processes away ...");
            }
        });
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(wait);
    thread.map(drop).context("start the thread that waits for signals")
}

/// True after the first signal.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// An error after the first signal. Cheap enough for every read.
pub(crate) fn check() -> io::Result<()> {
    if is_interrupted() { Err(io::Error::other("interrupted")) } else { Ok(()) }
}

/// Waits, but not beyond the first signal, which is an error.
pub(crate) fn pause(duration: Duration) -> io::Result<()> {
    let started = crate::time::now();
    while started.elapsed() < duration {
        check()?;
        crate::time::sleep(LOOK_EVERY.min(duration));
    }
    check()
}
