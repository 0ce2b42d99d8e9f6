//! `feedline demo` leaves a report and nothing else, also when it is interrupted at any moment.

#![expect(clippy::disallowed_methods, reason = "limits how long real processes may take")]

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{Ran, Sandbox, wait_until};

/// Small enough for a debug build: what is shown is the order of events, not speed.
const FLAGS: [&str; 9] =
    ["demo", "--no-s3fs", "--images", "120", "--classes", "3", "--processes", "2", "--out"];

fn args(flags: &[&str], out: &Path) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).chain([out.display().to_string()]).collect()
}

/// The same for a cluster.
const CLUSTER_FLAGS: [&str; 11] = [
    "demo",
    "--nodes",
    "3",
    "--images",
    "150",
    "--classes",
    "3",
    "--processes",
    "1",
    "--json",
    "--out",
];

fn assert_nothing_left(sandbox: &Sandbox, out: &Path) {
    assert!(!out.join("work").exists(), "the work directory is left");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(out.to_str().unwrap()), "a mount is left:\n{mounts}");
    assert!(sandbox.processes().is_empty(), "processes are left: {:?}", sandbox.processes());
}

#[test]
fn the_demo_tells_its_story_writes_the_report_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let out = sandbox.path("out");
    let started = Instant::now();
    let ran = sandbox.run(&args(&FLAGS, &out));
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("requests/image"), "{}", ran.stdout);
    let report = std::fs::read_to_string(out.join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let epochs = report["systems"][0]["epochs"].as_array().unwrap();
    let requests = |epoch: usize| epochs[epoch]["bucket_requests"].as_u64().unwrap();
    assert_eq!(epochs.len(), 3);
    assert!((120..=130).contains(&requests(0)), "a cold epoch took {} requests", requests(0));
    assert_eq!((requests(1), requests(2)), (0, 0), "a warm epoch asked the bucket");
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().contains("<rect"));
    assert!(std::fs::read_to_string(out.join("chart.svg")).unwrap().contains("<rect"));
    assert_nothing_left(&sandbox, &out);
    // Waiting in vain for what it does not see would show here; the story itself takes seconds.
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let moments = [
        (&FLAGS[..], "work/bucket"),
        (&FLAGS[..], "work/feedline-cache/objects"),
        (&CLUSTER_FLAGS[..], "work/nodes/node-2/cache/objects"),
    ];
    for (flags, moment) in moments {
        let sandbox = Sandbox::new();
        let out = sandbox.path("out");
        let mut command = sandbox.feedline(&args(flags, &out));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while !out.join(moment).exists() {
            assert!(started.elapsed() < Duration::from_secs(120), "{moment} never came");
            assert!(child.try_wait().unwrap().is_none(), "it ended before {moment}");
            std::thread::yield_now();
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "at {moment}");
        assert_nothing_left(&sandbox, &out);
    }
}

#[test]
fn the_demo_of_a_cluster_fetches_each_image_once_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let out = sandbox.path("out");
    let ran = sandbox.run(&args(&CLUSTER_FLAGS, &out));
    assert!(ran.stderr.contains("GETs an object"), "{}\n{}", ran.stdout, ran.stderr);
    let report = ran.json();
    let epochs = report["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 3);
    let of_all = |name: &str| epochs.iter().map(|epoch| epoch[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(of_all("images"), 450);
    let gets: u64 = epochs.iter().map(|epoch| epoch["requests"]["get"].as_u64().unwrap()).sum();
    // One for each, and no more than nodes say: on a machine that stands still for seconds they pass
    // each other by.
    let passed_by =
        epochs.iter().flat_map(|epoch| epoch["passed_by"].as_object().unwrap().values());
    let passed_by: u64 = passed_by.map(|count| count.as_u64().unwrap()).sum();
    assert!((150..=151 + passed_by).contains(&gets), "{report:#}");
    assert!(epochs.iter().all(|epoch| epoch["nodes"].as_array().unwrap().len() == 3));
    let written = std::fs::read_to_string(out.join("cluster.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), report);
    assert_nothing_left(&sandbox, &out);
}

/// Two nodes on slow links.
const LINK_FLAGS: [&str; 13] = [
    "demo",
    "--nodes",
    "2",
    "--link",
    "40MB/s",
    "--images",
    "150",
    "--classes",
    "3",
    "--processes",
    "1",
    "--json",
    "--out",
];

/// A process: its number, and when it started, since numbers come again.
type Process = (i32, String);

/// All that descend from a process and live now, with itself.
fn family(of: i32) -> HashSet<Process> {
    let stat = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the fields after it are plain.
        let fields: Vec<_> = stat[stat.rfind(')')? + 2..].split(' ').map(str::to_owned).collect();
        Some((pid, fields[1].parse::<i32>().ok()?, fields[19].clone()))
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let all: Vec<_> =
        pids.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect();
    let mut family = HashSet::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for (pid, its_parent, started) in &all {
            let is_of_it = *its_parent == parent || *pid == of;
            if is_of_it && family.insert((*pid, started.clone())) {
                parents.push(*pid);
            }
        }
    }
    family
}

/// The network namespace that a process is in.
fn network_of(pid: i32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// What the machine's own network has.
fn own_network() -> HashSet<String> {
    let links = Ran::of(Command::new("ip").args(["-o", "link", "show"])).ok();
    let link = |line: &str| line.split(':').nth(1).unwrap_or_default().trim().to_owned();
    let queues = Ran::of(Command::new("tc").args(["qdisc", "show"])).ok();
    let limited = queues.lines().filter(|line| line.contains(" tbf ")).map(str::to_owned);
    links.lines().map(link).chain(limited).collect()
}

/// A demo under way, and all processes that it ever had. Namespaces live as long as a process is in them, and with
/// them their links and queues: when all these are gone, and nothing new is mounted, they are gone.
struct Watched {
    child: Child,
    family: HashSet<Process>,
    own_network: HashSet<String>,
}

impl Watched {
    fn start(sandbox: &Sandbox, out: &Path) -> Self {
        let own_network = own_network();
        let to = |name: &str| Stdio::from(File::create(sandbox.path(name)).unwrap());
        let mut command = sandbox.feedline(&args(&LINK_FLAGS, out));
        let child = command.stdout(to("stdout")).stderr(to("stderr")).spawn().unwrap();
        Self { child, family: HashSet::new(), own_network }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Looks once; its end, if it has ended.
    fn look(&mut self) -> Option<ExitStatus> {
        let family = family(self.pid());
        self.family.extend(family);
        self.child.try_wait().unwrap()
    }

    /// Those of its processes that are in other networks than this one.
    fn in_nodes(&self) -> Vec<i32> {
        let own = network_of(std::process::id().cast_signed());
        let is_elsewhere = |pid: &i32| network_of(*pid).is_some_and(|it| Some(it) != own);
        family(self.pid()).into_iter().map(|(pid, _)| pid).filter(is_elsewhere).collect()
    }

    fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        crate::sandbox::wait_within(Duration::from_secs(180), "the demo to end", || {
            ended = self.look();
            ended.is_some()
        });
        ended.unwrap()
    }

    fn assert_nothing_left(&self, sandbox: &Sandbox, out: &Path) {
        let alive = |(pid, started): &Process| {
            family(*pid).iter().any(|it| (it.0, &it.1) == (*pid, started))
        };
        wait_until("every process that it had to be gone", || !self.family.iter().any(alive));
        assert!(6 <= self.family.len(), "few were seen: {:?}", self.family);
        assert_nothing_left(sandbox, out);
        let added: Vec<_> = own_network().difference(&self.own_network).cloned().collect();
        assert!(added.is_empty(), "left in the machine's own network: {added:?}");
    }
}

#[test]
fn a_demo_on_slow_links_says_how_fast_each_node_and_all_read_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let out = sandbox.path("out");
    let mut demo = Watched::start(&sandbox, &out);
    let ended = demo.wait();
    let told = fs::read_to_string(sandbox.path("stderr")).unwrap();
    assert!(ended.success(), "{told}");
    for words in ["node 1", "node 2", "cluster", "images/s", "GETs an object"] {
        assert!(told.contains(words), "{words:?} is missing:\n{told}");
    }
    let report = fs::read_to_string(sandbox.path("stdout")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["link_bytes_per_s"], 40_000_000);
    let epochs = report["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 3);
    for epoch in epochs {
        let nodes = epoch["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), 2);
        for part in nodes.iter().chain([epoch]) {
            assert!(0.0 < part["images_per_s"].as_f64().unwrap(), "{report:#}");
        }
        assert_eq!(epoch["images"], 150, "{report:#}");
    }
    demo.assert_nothing_left(&sandbox, &out);
}

#[test]
fn a_demo_on_slow_links_that_is_interrupted_leaves_no_network() {
    let sandbox = Sandbox::new();
    let out = sandbox.path("out");
    let mut demo = Watched::start(&sandbox, &out);
    // Both nodes serve, and files are on their way.
    let moment = out.join("work/nodes/node-2/cache/objects");
    crate::sandbox::wait_within(Duration::from_secs(120), "the second node to serve", || {
        assert!(demo.look().is_none(), "it ended before that");
        moment.exists()
    });
    // The links are what was asked for.
    let limited = demo.in_nodes().into_iter().filter(|pid| {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{pid}/ns/net")).args(["tc", "qdisc", "show"]);
        Ran::of(&mut inside).stdout.contains(" tbf ")
    });
    assert!(2 <= limited.count(), "no node has a limited link");
    kill_process(Pid::from_raw(demo.pid()).unwrap(), Signal::INT).unwrap();
    assert_eq!(demo.wait().code(), Some(1));
    demo.assert_nothing_left(&sandbox, &out);
}
