//! Commands about all nodes at once: where files are, what is freed, kept and checked, and who did not answer.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use feedline_node::api::{ClusterStatus, Status};
use feedline_node::registry;
use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{Cluster, FILES, NODES, address};
use crate::sandbox::{Ran, Sandbox, content, signal, wait_until};

const COUNT: u64 = FILES as u64;

/// A cluster of which nobody fetches ahead, so that it is known who has what.
fn start(sandbox: &Sandbox, test: usize) -> Cluster<'_> {
    Cluster::start(sandbox, test, &["--fill", "off"])
}

/// A command about the set, as node 0 sees it.
fn run(sandbox: &Sandbox, cluster: &Cluster<'_>, args: &[&str]) -> Ran {
    let set = cluster.mnt(0).join("set");
    sandbox.run(&[args, &[set.to_str().unwrap()]].concat())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Waits until each node has written what it read.
fn wait_for_disks(sandbox: &Sandbox, cluster: &Cluster<'_>, copies: u64) {
    wait_until("everything to be on the disks", || {
        let all = run(sandbox, cluster, &["du", "--json"]).json()["cluster"].clone();
        number(&all["files"]) == COUNT && number(&all["copies"]) == copies
    });
}

fn end(sandbox: &Sandbox, cluster: &Cluster<'_>) {
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn du_ls_and_stat_say_on_which_nodes_files_are() {
    let sandbox = Sandbox::new();
    let cluster = start(&sandbox, 20);
    // Read through one node: what others own is there, and a copy of it here.
    cluster.read(0, 0, 0..FILES);
    wait_until("the copies to be written", || {
        let usage = run(&sandbox, &cluster, &["du", "--json"]).json();
        number(&usage["cached_files"]) == COUNT && number(&usage["cluster"]["files"]) == COUNT
    });
    let usage = run(&sandbox, &cluster, &["du", "--json"]).json();
    let all = &usage["cluster"];
    assert_eq!((&all["files"], &all["bytes"]), (&usage["files"], &usage["bytes"]), "{usage:#}");
    let nodes = all["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), NODES, "{usage:#}");
    let sum: u64 = nodes.iter().map(|node| number(&node["files"])).sum();
    assert_eq!(sum, COUNT + number(&all["copies"]), "{usage:#}");
    assert!(0 < number(&all["copies"]) && number(&all["copies"]) < COUNT, "{usage:#}");
    let shown = run(&sandbox, &cluster, &["du"]).ok();
    for words in ["each file once", "further copies", "(this node)", &address(20, 2)] {
        assert!(shown.contains(words), "{words:?} is missing: {shown}");
    }
    // One node's view is what it was, and the same as on any other node without a cluster.
    let alone = run(&sandbox, &cluster, &["du", "--json", "--node-only"]).json();
    assert_eq!((&alone["cluster"], number(&alone["cached_files"])), (&Value::Null, COUNT));
    assert!(run(&sandbox, &cluster, &["du", "--node-only"]).ok().contains("on this node"));
    // Each file names its owner, and the owner has it.
    let lines = run(&sandbox, &cluster, &["ls", "--cached", "--json", "-R"]).ok();
    let entries: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), FILES);
    let mut owners: Vec<_> = entries.iter().map(|it| it["owner"].as_str().unwrap()).collect();
    for entry in &entries {
        let nodes = entry["nodes"].as_array().unwrap();
        assert!(nodes.contains(&entry["owner"]), "{entry:#}");
        assert!(nodes.contains(&address(20, 0).into()), "{entry:#}");
    }
    owners.sort_unstable();
    owners.dedup();
    assert_eq!(owners.len(), NODES);
    // A node that has only its own shows what the others have.
    let third = cluster.mnt(2).join("set");
    let seen = sandbox.run(&["ls", "--cached", "-R", third.to_str().unwrap()]).ok();
    assert_eq!(seen.lines().count(), FILES, "{seen}");
    assert!(seen.lines().all(|line| line.contains(" owner")), "{seen}");
    // Names alone are names alone.
    let names = run(&sandbox, &cluster, &["ls", "-R"]).ok();
    assert!(!names.contains('['), "{names}");
    let file = third.join(entries[0]["path"].as_str().unwrap().strip_prefix("set/").unwrap());
    let stat = sandbox.run(&["stat", file.to_str().unwrap()]).ok();
    assert!(stat.contains("on nodes") && stat.contains("owner"), "{stat}");
    end(&sandbox, &cluster);
}

#[test]
fn free_and_pin_and_check_are_done_on_all_nodes() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 21, &["--fill", "off", "--local-copies", "never"]);
    cluster.read(0, 0, 0..FILES);
    wait_for_disks(&sandbox, &cluster, 0);
    // Each keeps what it owns.
    let pinned = run(&sandbox, &cluster, &["pin", "--json"]).json();
    let parts = pinned["cluster"]["nodes"].as_array().unwrap().clone();
    let kept: u64 = parts.iter().map(|part| number(&part["pinned_files"])).sum();
    assert_eq!((kept, parts.len()), (COUNT, NODES), "{pinned:#}");
    let usage = run(&sandbox, &cluster, &["du", "--json"]).json();
    for part in usage["cluster"]["nodes"].as_array().unwrap() {
        assert_eq!(part["pinned_files"], part["files"], "{usage:#}");
        assert!(0 < number(&part["files"]), "{usage:#}");
    }
    let freed = run(&sandbox, &cluster, &["free", "--json"]).json();
    assert_eq!(number(&freed["cluster"]["files"]), 0, "pinned files stay: {freed:#}");
    assert!(run(&sandbox, &cluster, &["free"]).ok().contains("pinned ones stay"));
    // A file of another node goes bad on its disk, whichever node is asked to check.
    let bad = damage(&sandbox, 1);
    let checked = run(&sandbox, &cluster, &["check"]);
    assert_eq!(checked.code, Some(1), "{checked:#?}");
    let at = format!(" on {}", address(21, 1));
    assert!(checked.stdout.contains("corrupt: ") && checked.stdout.contains(&at), "{checked:#?}");
    assert!(checked.stdout.contains(&format!("checked {FILES} files")), "{checked:#?}");
    assert!(!bad.exists(), "it was dropped");
    assert!(run(&sandbox, &cluster, &["check"]).ok().contains("0 corrupt"));
    // Unpinned, all goes.
    run(&sandbox, &cluster, &["unpin"]).ok();
    let freed = run(&sandbox, &cluster, &["free", "--json"]).json();
    assert_eq!(number(&freed["cluster"]["files"]), COUNT - 1, "{freed:#}");
    let parts = freed["cluster"]["nodes"].as_array().unwrap();
    assert!(parts.iter().all(|part| 0 < number(&part["bytes"])), "{freed:#}");
    let usage = run(&sandbox, &cluster, &["du", "--json"]).json();
    assert_eq!(number(&usage["cluster"]["bytes"]), 0, "{usage:#}");
    end(&sandbox, &cluster);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a turn of other processes takes real time")]
fn what_one_node_frees_no_other_fetches_again() {
    // Given two nodes that fetch ahead for their readers,
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 26, &[]);
    let sets = |node: usize| cluster.status(node)["fill"]["data_sets"].as_array().unwrap().clone();
    cluster.read_on(1..NODES, 0, 0..FILES);
    wait_until("all to be where it is wanted", || {
        let is_idle = |node: usize| cluster.status(node)["fill"]["in_flight"] == 0;
        let has_all = |node: usize| sets(node).iter().any(|set| set["state"] == "complete");
        (0..NODES).all(is_idle) && (1..NODES).all(has_all)
    });
    // when a third one, which knows nothing of them, is told to free the data set,
    assert_eq!(sets(0), [Value::Null; 0]);
    let freed = run(&sandbox, &cluster, &["free", "--json"]).json();
    assert!(COUNT <= number(&freed["cluster"]["files"]), "{freed:#}");
    // then they forget it as well: in a turn of their engines nothing has come back,
    for node in 1..NODES {
        assert_eq!(sets(node), [Value::Null; 0], "node {node}");
    }
    let gets = sandbox.sim.stats().get;
    std::thread::sleep(Duration::from_millis(1_500));
    let usage = run(&sandbox, &cluster, &["du", "--json"]).json();
    assert_eq!(number(&usage["cluster"]["files"]), 0, "{usage:#}");
    assert_eq!(sandbox.sim.stats().get, gets);
    // until somebody reads there again.
    cluster.read(1, 1, 0..40);
    wait_until("the rest to be fetched again", || {
        let usage = run(&sandbox, &cluster, &["du", "--json"]).json();
        number(&usage["cluster"]["files"]) == COUNT
    });
    end(&sandbox, &cluster);
}

/// Turns a bit of one cached file of a node.
fn damage(sandbox: &Sandbox, node: usize) -> PathBuf {
    let mut dirs = vec![sandbox.path(&format!("cache-{node}"))];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if entry.metadata().unwrap().len() == 20_000 {
                let mut bytes = fs::read(&path).unwrap();
                bytes[10_000] ^= 1;
                fs::write(&path, bytes).unwrap();
                return path;
            }
        }
    }
    panic!("node {node} has no file of the set");
}

#[test]
fn a_node_that_hangs_is_named_and_the_others_answer() {
    let sandbox = Sandbox::new();
    let cluster = start(&sandbox, 22);
    cluster.read_on(0..NODES, 0, 0..FILES);
    let third = cluster.pid(2);
    signal(third, Signal::STOP);
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let silent = address(22, 2);
        let usage = run(&sandbox, &cluster, &["du", "--json"]).json();
        assert_eq!(usage["cluster"]["unheard"][0]["address"], *silent, "{usage:#}");
        assert_eq!(usage["cluster"]["nodes"].as_array().unwrap().len(), NODES - 1, "{usage:#}");
        assert!(
            run(&sandbox, &cluster, &["du"]).ok().contains(&format!("{silent} did not answer"))
        );
        let listed = run(&sandbox, &cluster, &["ls", "--cached", "-R"]);
        assert!(listed.stderr.contains(&silent), "{listed:#?}");
        listed.ok();
        run(&sandbox, &cluster, &["free"]).fails(1, &[&silent, "did not answer", "way out"]);
        run(&sandbox, &cluster, &["pin"]).fails(1, &[&silent, "it may not be done there"]);
        run(&sandbox, &cluster, &["check"]).fails(1, &[&silent, "was not checked"]);
        let mnt = cluster.mnt(0);
        let status = sandbox.run(&["status", mnt.to_str().unwrap()]).ok();
        assert!(status.contains(&format!("node {silent} did not answer")), "{status}");
        let nodes = cluster.status(0)["cluster"]["nodes"].clone();
        let states: Vec<_> = nodes.as_array().unwrap().iter().map(|it| &it["state"]).collect();
        assert_eq!(states, ["up", "up", "down"], "{nodes:#}");
    }));
    // Whatever happened: a stopped process cannot be ended cleanly.
    signal(third, Signal::CONT);
    tried.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    wait_until("the one that hung to be asked again", || {
        let usage = run(&sandbox, &cluster, &["du", "--json"]).json();
        usage["cluster"]["nodes"].as_array().unwrap().len() == NODES
    });
    run(&sandbox, &cluster, &["free"]).ok();
    end(&sandbox, &cluster);
}

#[test]
fn who_cannot_say_which_nodes_there_are_is_named() {
    let sandbox = Sandbox::new();
    let (mnt, listen, etcd) = (sandbox.mnt_str(), address(25, 0), address(25, 1));
    // Given an etcd that was never heard,
    let url = format!("http://{etcd}");
    sandbox.mount(&["--listen", &listen, "--etcd", &url]);
    // then this node alone is done, which is not all that was asked.
    let words = [&*format!("etcd at {url}"), "who the other nodes are is not known"];
    for verb in ["free", "check"] {
        sandbox.run(&[verb, mnt]).fails(1, &words);
        sandbox.run(&[verb, "--node-only", mnt]).ok();
    }
    // What is to be known to all is refused.
    for verb in ["pin", "unpin"] {
        let words = ["etcd did not confirm it", &url, "nothing is", "--node-only"];
        sandbox.run(&[verb, mnt]).fails(1, &words);
        sandbox.run(&[verb, "--node-only", mnt]).ok();
    }
    assert!(sandbox.run(&["du", mnt]).ok().contains(words[1]));
    sandbox.umount();
    // Given a peer that takes connections and says nothing, asked before its greeting has failed or after,
    let silent = TcpListener::bind(&*etcd).unwrap();
    sandbox.mount(&["--listen", &listen, "--peers", &format!("{listen},{etcd}")]);
    sandbox.run(&["free", mnt]).fails(1, &[&etcd, "did not answer", "may not be done there"]);
    drop(silent);
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn more_files_than_fit_in_a_question_are_counted_listed_and_freed() {
    // Given 20,000 files, of which one node has read each hundredth,
    const MANY: usize = 20_000;
    let sandbox = Sandbox::new();
    let name = |at: usize| format!("many/{at:05}");
    for at in 0..MANY {
        sandbox.sim.put_object("b", &name(at), content(&name(at), 10));
    }
    let cluster = start(&sandbox, 24);
    for at in (0..MANY).step_by(100) {
        let read = fs::read(cluster.mnt(1).join(name(at))).unwrap();
        assert_eq!(read, content(&name(at), 10));
    }
    let many = cluster.mnt(2).join("many");
    let run = |args: &[&str]| sandbox.run(&[args, &[many.to_str().unwrap()]].concat());
    // when another is asked, then it knows each of them,
    wait_until("all that was read to be on a disk", || {
        let usage = run(&["du", "--json"]).json();
        assert_eq!(number(&usage["files"]), MANY as u64);
        number(&usage["cluster"]["files"]) == MANY as u64 / 100
    });
    let listed = run(&["ls", "--cached"]).ok();
    let listed: Vec<_> = listed.lines().map(|line| line.split("  [").next().unwrap()).collect();
    let expected: Vec<_> = (0..MANY).step_by(100).map(|at| format!("{at:05}")).collect();
    assert_eq!(listed, expected);
    // and drops all copies of all of them.
    let copies = number(&run(&["du", "--json"]).json()["cluster"]["copies"]);
    let freed = run(&["free", "--json"]).json();
    assert_eq!(number(&freed["cluster"]["files"]), MANY as u64 / 100 + copies, "{freed:#}");
    assert_eq!(run(&["ls", "--cached"]).ok(), "");
    end(&sandbox, &cluster);
}

#[test]
fn status_and_top_show_every_node_and_what_they_did_together() {
    let sandbox = Sandbox::new();
    let cluster = start(&sandbox, 23);
    cluster.read_on(0..NODES, 0, 0..FILES);
    let status = cluster.status(0);
    let nodes = status["cluster"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), NODES, "{status:#}");
    assert_eq!((&nodes[0]["this"], &nodes[0]["node"]), (&true.into(), &status["cluster"]["node"]));
    for node in nodes {
        assert_eq!(
            (&node["state"], &node["fingerprint"]),
            (&"up".into(), &nodes[0]["fingerprint"])
        );
        assert!(0 < number(&node["requests_saved"]) && 0 < number(&node["used_bytes"]), "{node:#}");
    }
    // Each object was fetched once, whoever did it.
    let gets: u64 = nodes.iter().map(|node| number(&node["requests"]["GET"])).sum();
    assert_eq!(gets, sandbox.sim.stats().get);
    let mnt = cluster.mnt(0);
    let mnt = mnt.to_str().unwrap();
    let shown = sandbox.run(&["status", mnt]).ok();
    assert!(shown.contains("total") && shown.contains("3 of 3"), "{shown}");
    assert!(shown.contains("page cache"), "it says what nobody sees: {shown}");
    let alone = sandbox.run(&["status", "--json", "--node-only", mnt]).json();
    assert_eq!(alone["cluster"]["nodes"], Value::Null);
    let frame = sandbox.run(&["top", "--once", mnt]).ok();
    assert!(frame.contains("3 of 3 nodes answer"), "{frame}");
    assert!((0..NODES).all(|node| frame.contains(&address(23, node))), "{frame}");
    // One that is gone is a line that says so.
    signal(cluster.pid(2), Signal::KILL);
    let gone = format!("node {} did not answer", address(23, 2));
    wait_until("the dead one to be missed", || {
        cluster.status(0)["cluster"]["nodes"][2]["state"] == "down"
    });
    let frame = sandbox.run(&["top", "--once", mnt]).ok();
    assert!(frame.contains(&gone) && frame.contains("2 of 3 nodes answer"), "{frame}");
    let shown = sandbox.run(&["status", mnt]).ok();
    assert!(shown.contains(&gone) && shown.contains("2 of 3"), "{shown}");
    (0..2).for_each(|node| cluster.umount(node));
    // The watchdog clears the mount of the dead one.
    sandbox.assert_gone();
}

#[test]
fn status_of_a_daemon_that_knows_nothing_of_the_others_is_shown_all_the_same() {
    // Given a daemon that has a status and answers nothing else, as one of an older version does,
    let sandbox = Sandbox::new();
    let (run_dir, mnt) = (sandbox.path("run"), sandbox.mnt_str());
    let dir = registry::make_dir(&run_dir, &sandbox.mnt).unwrap();
    let registered = serde_json::json!({"mountpoint": mnt, "sources": ["s3://b"], "pid": 1});
    fs::write(dir.join("mount.json"), registered.to_string()).unwrap();
    let status = Status {
        mountpoint: mnt.to_owned(),
        version: "0.0.1".to_owned(),
        cluster: Some(ClusterStatus { members: 7, ..Default::default() }),
        ..Default::default()
    };
    let status = serde_json::to_string(&status).unwrap();
    let listener = UnixListener::bind(dir.join("admin.sock")).unwrap();
    let answer = move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let (code, body) = if head.starts_with(b"GET /v1/status ") {
                ("200 OK", status.as_str())
            } else {
                ("404 Not Found", r#"{"message":"no such endpoint","kind":"not_found"}"#)
            };
            let length = body.len();
            let head = format!("HTTP/1.1 {code}\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all((head + body).as_bytes());
        }
    };
    // Ends with the tests.
    drop(std::thread::Builder::new().name("older".into()).spawn(answer).unwrap());
    // then its status is shown, and why the nodes are not.
    for args in [vec!["status"], vec!["status", mnt]] {
        let shown = sandbox.run(&args).ok();
        for words in ["7 nodes", "not known: no such endpoint", "of version 0.0.1"] {
            assert!(shown.contains(words), "{words:?} is missing: {shown}");
        }
        let json = sandbox.run(&[&args[..], &["--json"]].concat());
        assert!(json.stderr.contains("not known: no such endpoint"), "{json:#?}");
        assert!(json.ok().contains("\"members\": 7"));
    }
    fs::remove_dir_all(dir).unwrap();
    sandbox.assert_gone();
}

#[test]
fn top_draws_in_a_terminal_until_q_and_says_so_where_there_is_none() {
    let sandbox = Sandbox::new();
    sandbox.run(&["top"]).fails(2, &["draws on a terminal", "--once", "feedline status --json"]);
    sandbox.run(&["top", "--once"]).fails(3, &["nothing is mounted"]);
    sandbox.mount(&[]);
    let frame = sandbox.run(&["top", "--once"]).ok();
    assert!(frame.contains("one node, no cluster") && frame.contains("s3://b"), "{frame}");
    // A terminal of its own, of a size of its own; it must be as it was when `top` has ended.
    let script = r#"
import fcntl, os, pty, select, struct, sys, termios, time
pid, tty = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], "top"])
fcntl.ioctl(tty, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 150, 0, 0))
seen, resized, sent, until = b"", False, False, time.time() + 60
while time.time() < until:
    if select.select([tty], [], [], 0.1)[0]:
        try:
            piece = os.read(tty, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    if not resized and b"SSD used" in seen:
        # The frame of another size is drawn from its first line on.
        fcntl.ioctl(tty, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        resized = True
    if not sent and seen.count(b"feedline top") > 1:
        assert not termios.tcgetattr(tty)[3] & termios.ECHO
        os.write(tty, b"q")
        sent = True
_, code = os.waitpid(pid, 0)
assert sent, seen
assert os.waitstatus_to_exitcode(code) == 0, code
assert sys.argv[2].encode() in seen, seen
assert b"\x1b[?1049h" in seen and b"\x1b[?1049l" in seen, "the screen before comes back"
"#;
    let mut python = sandbox.command("python3");
    python.args(["-c", script, env!("CARGO_BIN_EXE_feedline"), sandbox.mnt_str()]);
    python.env("TERM", "xterm");
    Ran::of(&mut python).ok();
    sandbox.umount();
    sandbox.assert_gone();
}
