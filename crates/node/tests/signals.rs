//! Signals during the start of a node. A binary of its own: they are sent to this process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::path::Path;
use std::time::Duration;

use feedline_node::config::{Inputs, Merged, ResolvedConfig};
use feedline_node::{Node, StartError};
use feedline_s3sim::S3Sim;
use rustix::process::{Signal, getpid, kill_process};

fn config(sim: &S3Sim, dir: &Path) -> ResolvedConfig {
    let own = |name: &str, value: String| (name.to_owned(), value);
    let path = |name: &str| dir.join(name).display().to_string();
    let flags = vec![
        own("source", "s3://b".into()),
        own("mountpoint", path("mnt")),
        own("endpoint", sim.endpoint()),
        own("anonymous", "true".into()),
        own("run_dir", path("run")),
        own("cache", format!("{}:1GiB", path("cache"))),
    ];
    let inputs = Inputs { flags, ..Inputs::default() };
    ResolvedConfig::resolve(&Merged::load(&inputs).unwrap()).unwrap()
}

fn is_mounted(dir: &Path) -> bool {
    let mnt = dir.join("mnt").display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&mnt))
}

/// One test, for both parts send signals to the one process that they share.
#[test]
fn a_signal_during_the_start_ends_the_node_and_leaves_no_mount() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::create_dir(dir.path().join("mnt")).unwrap();

    // After the kernel mounted and before anybody waits for signals: recorded, then acted on.
    let sim = S3Sim::builder().empty().start().unwrap();
    sim.create_bucket("b");
    sim.put_object("b", "x", b"x");
    for signal in [Signal::TERM, Signal::INT] {
        let node = Node::start(config(&sim, dir.path())).unwrap();
        assert!(is_mounted(dir.path()));
        kill_process(getpid(), signal).unwrap();
        node.serve_until_signal().unwrap();
        assert!(!is_mounted(dir.path()), "{signal:?}");
    }

    // Before anything is mounted, with a bucket that takes its time: at once, and with nothing left.
    let slow = S3Sim::builder().empty().list_latency_ms(20_000).start().unwrap();
    slow.create_bucket("b");
    let settings = config(&slow, dir.path());
    let starting = std::thread::scope(|scope| {
        let starting = scope.spawn(|| Node::start(settings));
        while slow.stats().in_flight == 0 {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        kill_process(getpid(), Signal::TERM).unwrap();
        starting.join().unwrap()
    });
    assert!(matches!(starting, Err(StartError::Interrupted { signal: "SIGTERM" })), "{starting:?}");
    assert!(slow.stats().in_flight <= 1, "it did not wait for the answer");
    assert!(!is_mounted(dir.path()));
    assert!(!dir.path().join("run").read_dir().is_ok_and(|mut entries| entries.next().is_some()));
}
