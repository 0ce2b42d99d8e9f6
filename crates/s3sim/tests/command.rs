//! The command itself: it says where it listens, serves with the threads it was given, and ends on
//! a signal.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running command; killed if the test fails.
struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended if the test has passed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the command over `root` and waits for the line that says where it listens.
fn start(root: &Path, arguments: &[&str]) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_s3sim"))
        .arg("--root")
        .arg(root)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("listening on http://").expect("the line").to_owned();
    Running { child, address }
}

impl Running {
    /// Sends a GET and leaves the connection open.
    fn get(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").expect("sent");
        stream
    }

    fn threads(&self) -> usize {
        let tasks = format!("/proc/{}/task", self.child.id());
        std::fs::read_dir(tasks).expect("Linux").count()
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
        self.child.wait().expect("our child")
    }
}

#[test]
fn a_signal_ends_it_well_whatever_it_serves() {
    let root = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(root.path().join("b")).expect("a bucket");
    std::fs::write(root.path().join("b/key"), "hello").expect("an object");
    for signal in [Signal::INT, Signal::TERM] {
        let mut running = start(root.path(), &["--latency", "50ms"]);
        let mut answer = [0; 15];
        running.get("/b/key").read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        // An idle connection and a request under way do not hold it back.
        let _idle = TcpStream::connect(&running.address).expect("it listens");
        let _busy = running.get("/b/key");
        assert_eq!(running.end(signal).code(), Some(0), "{signal:?}");
        assert!(TcpStream::connect(&running.address).is_err(), "something still listens");
    }
}

#[test]
fn it_serves_with_as_many_threads_as_told() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (mut one, mut four) = (start(root.path(), &[]), start(root.path(), &["--threads", "4"]));
    // One serves on the thread that accepts; several serve beside it.
    assert_eq!(four.threads(), one.threads() + 4);
    let mut answer = [0; 15];
    for _ in 0..8 {
        four.get("/__stats").read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
    assert_eq!(one.end(Signal::INT).code(), Some(0));
    assert_eq!(four.end(Signal::INT).code(), Some(0));
}
