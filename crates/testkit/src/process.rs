//! Other processes, as the kernel shows them.

use std::fs;

/// True if no thread of a process runs or can be woken; one that waits for a disk (D) stops before it goes on.
/// After SIGSTOP that is a moment later: until a thread has taken the signal, it still answers.
#[must_use]
pub fn has_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        state.is_empty() || state.starts_with(['T', 't', 'D', 'Z'])
    })
}
