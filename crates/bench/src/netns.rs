//! A network on this machine: nodes that reach each other over a bridge, each in a network namespace.
//!
//! ```text
//! hub:     bridge 10.77.0.1     the bucket listens here
//!            |v0        |v1
//! node 0:  eth0       node 1:  eth0
//!          10.77.0.2           10.77.0.3
//! ```
//!
//! # Invariants
//!
//! - The machine's own network is not touched: the bridge lies in a namespace too. So no address can
//!   collide with one in use, and two such networks do not see each other.
//! - The namespaces have no names. One lives as long as a descriptor or a process is in it; when the last
//!   is gone the kernel takes its links, its addresses and the bridge away, after SIGKILL as well. There
//!   is nothing that a later run could find.
//! - A process enters by setns between fork and exec. `ip netns exec` would also give it a mount namespace
//!   of its own, and a file system mounted in there would be seen by nobody else.
//!
//! Needs root, and `ip` (and `tc` for links with a rate) of iproute2.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The addresses are 10.77.0.0/24: the hub is 1, the nodes are 2 and up.
const PREFIX: [u8; 3] = [10, 77, 0];
/// Nodes that the addresses suffice for, with room to spare.
pub const NODES_MAX: usize = 200;
/// Bytes that a link with a rate lets pass at once: a packet of the largest size that the kernel hands to
/// a link (64 KiB) fits several times, else such packets would be cut up.
const BURST_BYTES: u64 = 256 << 10;

/// A network namespace. It lives as long as any clone of this or any process in it.
#[derive(Debug, Clone)]
pub struct Namespace {
    fd: Arc<OwnedFd>,
}

impl Namespace {
    /// An empty one, with the loopback device up.
    fn new() -> Result<Self> {
        let made = in_thread(|| {
            #[expect(unsafe_code, reason = "leaving a namespace is an unsafe call")]
            // SAFETY: only the network namespace is left, not what memory or descriptors depend on.
            unsafe {
                unshare_unsafe(UnshareFlags::NEWNET).context("make a network namespace")?;
            }
            let file = File::open("/proc/thread-self/ns/net").context("open the namespace")?;
            anyhow::Ok(Self { fd: Arc::new(file.into()) })
        })??;
        made.ip("link set lo up\n")?;
        Ok(made)
    }

    /// Lets `command` run in this namespace. Its mounts stay visible to all.
    pub fn put(&self, command: &mut Command) {
        let fd = self.fd.clone();
        #[expect(unsafe_code, reason = "the child itself must enter the namespace")]
        // SAFETY: setns is one system call, and nothing else runs between fork and exec.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(())
            });
        }
    }

    /// Runs `work` in a thread of its own in this namespace: the sockets that it opens are of there.
    ///
    /// # Errors
    ///
    /// If the thread cannot enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        in_thread(|| {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter the namespace")?;
            Ok(work())
        })?
    }

    /// Runs lines of `ip -batch` inside.
    fn ip(&self, lines: &str) -> Result<()> {
        self.tool("ip", &["-batch", "-"], lines)
    }

    fn tool(&self, program: &str, args: &[&str], lines: &str) -> Result<()> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.put(&mut command);
        let mut child = command.spawn().with_context(|| match which(program) {
            true => format!("run {program} in a network namespace (that needs root)"),
            false => format!("{program} is missing: install iproute2"),
        })?;
        let written = child.stdin.take().context("its input")?.write_all(lines.as_bytes());
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} refused: {}\n{lines}", said.trim());
        written.or_else(
            |error| if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) },
        )?;
        Ok(())
    }
}

/// The bridge, and the nodes at it. Dropping it leaves nothing, once the processes in it are gone.
#[derive(Debug)]
pub struct Network {
    hub: Namespace,
    nodes: Vec<Namespace>,
}

impl Network {
    /// Makes the hub and `nodes` nodes; with `link_bytes_per_s` each node sends and receives at most that.
    ///
    /// # Errors
    ///
    /// Without root, without iproute2, or if the kernel lacks bridges, veth or (with a rate) TBF.
    pub fn new(nodes: usize, link_bytes_per_s: Option<u64>) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run this as root"
        );
        if !(1..=NODES_MAX).contains(&nodes) {
            bail!("{nodes} nodes: 1 to {NODES_MAX} are possible");
        }
        let hub = Namespace::new()?;
        hub.ip(&format!(
            "link add br0 type bridge\naddress add {}/24 dev br0\nlink set br0 up\n",
            host(1)
        ))?;
        let mut this = Self { hub, nodes: Vec::with_capacity(nodes) };
        for node in 0..nodes {
            let inside = this.attach(node)?;
            if let Some(rate) = link_bytes_per_s {
                inside.tool("tc", &["-batch", "-"], &limit("eth0", rate))?;
                this.hub.tool("tc", &["-batch", "-"], &limit(&port(node), rate))?;
            }
            this.nodes.push(inside);
        }
        Ok(this)
    }

    fn attach(&self, node: usize) -> Result<Namespace> {
        let (inside, port) = (Namespace::new()?, port(node));
        let place = format!("/proc/{}/fd/{}", std::process::id(), inside.fd.as_raw_fd());
        self.hub.ip(&format!(
            "link add {port} type veth peer name eth0 netns {place}\n\
             link set {port} master br0\nlink set {port} up\n"
        ))?;
        inside
            .ip(&format!("address add {}/24 dev eth0\nlink set eth0 up\n", self.address(node)))?;
        Ok(inside)
    }

    /// Where the bridge is, and whatever is no node.
    #[must_use]
    pub fn hub(&self) -> &Namespace {
        &self.hub
    }

    /// The hub's address, reachable from every node.
    #[must_use]
    pub fn hub_address(&self) -> Ipv4Addr {
        host(1)
    }

    /// Node `node`, from 0.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn node(&self, node: usize) -> &Namespace {
        &self.nodes[node]
    }

    /// The address of node `node`, reachable from the hub and every node.
    #[must_use]
    pub fn address(&self, node: usize) -> Ipv4Addr {
        host(u8::try_from(node + 2).unwrap_or(u8::MAX))
    }

    /// Takes the link of a node down, as a pulled cable does, or up again.
    ///
    /// # Errors
    ///
    /// If `ip` refuses.
    pub fn set_link(&self, node: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.hub.ip(&format!("link set {} {state}\n", port(node)))
    }
}

fn host(last: u8) -> Ipv4Addr {
    let [a, b, c] = PREFIX;
    Ipv4Addr::new(a, b, c, last)
}

/// The bridge's end of a node's link.
fn port(node: usize) -> String {
    format!("v{node}")
}

/// What a device sends, at most: a line for `tc`.
fn limit(device: &str, bytes_per_s: u64) -> String {
    // What waits longer than 50 ms is dropped, as by a switch with little memory.
    format!(
        "qdisc add dev {device} root tbf rate {bytes_per_s}bps burst {BURST_BYTES} latency 50ms\n"
    )
}

/// Runs `work` in a thread of its own and waits: what it does to its namespace stays in that thread.
fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("namespace".to_owned());
        let thread = builder.spawn_scoped(scope, work).context("start a thread")?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn which(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn own_namespace() -> std::path::PathBuf {
        std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace")
    }

    #[test]
    fn nodes_reach_hub_and_each_other_and_not_this_machine() {
        let before = own_namespace();
        let network = Network::new(2, None).expect("a network: run this test as root");
        let listen = |namespace: &Namespace, address: Ipv4Addr| {
            let bound = namespace.run(|| TcpListener::bind((address, 0))).expect("entered");
            bound.expect("bound")
        };
        let servers = [
            listen(network.hub(), network.hub_address()),
            listen(network.node(1), network.address(1)),
        ];
        for server in &servers {
            let address = server.local_addr().expect("an address");
            let mut stream = network.node(0).run(|| TcpStream::connect(address)).expect("entered");
            stream.as_mut().expect("connected").write_all(b"hello").expect("sent");
            drop(stream);
            let mut heard = String::new();
            server.accept().expect("accepted").0.read_to_string(&mut heard).expect("received");
            assert_eq!(heard, "hello");
        }
        // Of this machine's own addresses a node knows none, not even 127.0.0.1.
        let own = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = own.local_addr().expect("an address");
        let strange = network.node(0).run(|| TcpStream::connect(address)).expect("entered");
        assert_eq!(strange.expect_err("another loopback").kind(), ErrorKind::ConnectionRefused);
        assert_eq!(own_namespace(), before, "this thread stayed where it was");
    }

    #[test]
    fn a_link_can_be_limited_taken_down_and_put_up_again() {
        let network = Network::new(1, Some(10_000_000)).expect("a network: run this test as root");
        let address = network.hub_address();
        let server = network.hub().run(|| TcpListener::bind((address, 0))).expect("entered");
        let address = server.as_ref().expect("bound").local_addr().expect("an address");
        let connect = |patience| {
            let limit = Duration::from_secs(patience);
            network.node(0).run(|| TcpStream::connect_timeout(&address, limit)).expect("entered")
        };
        assert!(connect(30).is_ok());
        network.set_link(0, false).expect("down");
        assert!(connect(1).is_err());
        network.set_link(0, true).expect("up");
        assert!(connect(30).is_ok());
    }

    #[test]
    fn a_process_in_a_node_has_its_network_and_the_mounts_of_all() {
        let network = Network::new(1, None).expect("a network: run this test as root");
        let link = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("read");
        let mut command = Command::new("readlink");
        command.args(["/proc/self/ns/net", "/proc/self/ns/mnt"]);
        network.node(0).put(&mut command);
        let output = command.output().expect("ran").stdout;
        let output = String::from_utf8(output).expect("text");
        let [net, mnt]: [&str; 2] =
            output.lines().collect::<Vec<_>>().try_into().expect("two lines");
        assert_ne!(net, link("net").to_str().expect("text"));
        assert_eq!(mnt, link("mnt").to_str().expect("text"));
    }
}
