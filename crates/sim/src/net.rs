//! The network of a simulation: machines with ports, connections between them, and what happens to both.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_cluster::{Accepted, Listener, Net, Stream};
use parking_lot::Mutex;

use crate::clock::{Pause, SimClock};
use crate::pipe::{End, Pipe};
use crate::sabotage::{Broken, Sabotage};
use crate::trace::Trace;
use crate::wires::Wires;

/// Connections that wait to be accepted, at most.
const BACKLOG: usize = 128;

/// Where a node can be reached: `place` counts through all addresses of the plan.
pub(crate) fn address(place: usize) -> SocketAddr {
    let last = u8::try_from(place + 1).expect("few addresses");
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 7001)
}

#[derive(Debug)]
struct Port {
    host: usize,
    waiting: VecDeque<End>,
    acceptor: Option<Waker>,
}

#[derive(Debug, Default)]
struct Ports {
    open: BTreeMap<SocketAddr, Port>,
    /// Which machine has an address, if one ever had.
    hosts: BTreeMap<SocketAddr, usize>,
    pipes: Vec<Weak<Pipe>>,
    connections: u64,
}

/// What all ends of all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: SimClock,
    trace: Trace,
    wires: Mutex<Wires>,
    is_off: Mutex<Vec<bool>>,
    pauses: Vec<Arc<Pause>>,
    ports: Mutex<Ports>,
    broken: Broken,
}

impl Shared {
    /// When bytes that are sent now arrive, and what they are then.
    pub(crate) fn carry(&self, from: usize, to: usize, bytes: &[u8]) -> (Duration, Bytes) {
        let mut wires = self.wires.lock();
        let at = self.clock.now() + wires.delay(from, to);
        let mut sent = bytes.to_vec();
        if !sent.is_empty()
            && let Some(place) = wires.damage(from, to, sent.len())
        {
            sent[place] ^= 0x10;
        }
        (at, sent.into())
    }

    pub(crate) fn holds(&self, from: usize, to: usize, context: &std::task::Context<'_>) -> bool {
        self.wires.lock().holds(from, to, context)
    }

    pub(crate) fn is_off(&self, host: usize) -> bool {
        self.is_off.lock()[host]
    }

    /// One packet from here to there: however long nothing passes, and then its delay.
    async fn pass(&self, from: usize, to: usize) {
        let delay = self.wires.lock().delay(from, to);
        self.clock.sleep(delay).await;
        poll_fn(|context| match self.holds(from, to, context) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }

    fn pipes_of(&self, touches: impl Fn(&Pipe) -> bool) -> Vec<Arc<Pipe>> {
        let mut ports = self.ports.lock();
        ports.pipes.retain(|pipe| 0 < pipe.strong_count());
        ports.pipes.iter().filter_map(Weak::upgrade).filter(|pipe| touches(pipe)).collect()
    }
}

/// The network, as those see it who break it.
#[derive(Debug, Clone)]
pub(crate) struct SimNet(Arc<Shared>);

impl SimNet {
    pub(crate) fn new(
        clock: SimClock,
        trace: Trace,
        wires: Wires,
        pauses: Vec<Arc<Pause>>,
        broken: Broken,
    ) -> Self {
        let is_off = Mutex::new(vec![false; pauses.len()]);
        let (wires, ports) = (Mutex::new(wires), Mutex::default());
        Self(Arc::new(Shared { clock, trace, wires, is_off, pauses, ports, broken }))
    }

    /// As a node on `host` has it.
    pub(crate) fn of(&self, host: usize) -> Arc<dyn Net> {
        Arc::new(HostNet { host, shared: Arc::clone(&self.0) })
    }

    pub(crate) fn wires(&self, change: impl FnOnce(&mut Wires)) {
        change(&mut self.0.wires.lock());
    }

    /// All connections between two machines break.
    pub(crate) fn reset(&self, a: usize, b: usize) {
        let between = |pipe: &Pipe| {
            let ends = (pipe.from, pipe.to);
            ends == (a, b) || ends == (b, a)
        };
        let now = self.0.clock.now();
        self.0.pipes_of(between).iter().for_each(|pipe| pipe.reset(now));
    }

    /// All connections of a process break: it was killed.
    pub(crate) fn reset_all(&self, host: usize) {
        let pipes = self.0.pipes_of(|pipe| pipe.from == host || pipe.to == host);
        for pipe in pipes {
            let delay = self.0.wires.lock().delay(pipe.from, pipe.to);
            pipe.reset(self.0.clock.now() + delay);
        }
    }

    /// A machine loses power: nothing comes from it any more, not even an end.
    pub(crate) fn switch_off(&self, host: usize) {
        self.0.is_off.lock()[host] = true;
        // Everybody who waited goes on waiting.
        let woken = self.0.wires.lock().switch(host, true);
        woken.into_iter().for_each(Waker::wake);
    }

    /// It is back, and knows none of its connections: they break at the first word.
    pub(crate) fn switch_on(&self, host: usize) {
        if !std::mem::take(&mut self.0.is_off.lock()[host]) {
            return;
        }
        let now = self.0.clock.now();
        self.0
            .pipes_of(|pipe| pipe.from == host || pipe.to == host)
            .iter()
            .for_each(|it| it.reset(now));
        let woken = self.0.wires.lock().switch(host, false);
        woken.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn mend(&self, from: usize, to: usize) {
        let woken = self.0.wires.lock().mend(from, to);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Everything but machines that are off.
    pub(crate) fn heal(&self) {
        let woken = self.0.wires.lock().heal();
        woken.into_iter().for_each(Waker::wake);
    }
}

#[derive(Debug)]
struct HostNet {
    host: usize,
    shared: Arc<Shared>,
}

impl HostNet {
    fn end(&self, out: &Arc<Pipe>, inn: &Arc<Pipe>, host: usize) -> End {
        End {
            out: Arc::clone(out),
            inn: Arc::clone(inn),
            net: Arc::clone(&self.shared),
            pause: Arc::clone(&self.shared.pauses[host]),
            sleep: None,
        }
    }
}

#[async_trait]
impl Net for HostNet {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let (shared, from) = (&self.shared, self.host);
        poll_fn(|context| match shared.pauses[from].holds(context) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
        let to = shared.ports.lock().hosts.get(&address).copied();
        let Some(to) = to else {
            // A machine without a node.
            let delay = shared.wires.lock().delay(from, from);
            shared.clock.sleep(delay).await;
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        shared.pass(from, to).await;
        let (there, back) = (Pipe::new(from, to), Pipe::new(to, from));
        let theirs = self.end(&back, &there, to);
        let accepted = {
            let mut ports = shared.ports.lock();
            ports.connections += 1;
            let number = ports.connections;
            ports.pipes.extend([Arc::downgrade(&there), Arc::downgrade(&back)]);
            match ports.open.get_mut(&address) {
                Some(port) if port.host == to && port.waiting.len() < BACKLOG => {
                    port.waiting.push_back(theirs);
                    Ok((number, port.acceptor.take()))
                }
                _ => Err(theirs),
            }
        };
        match accepted {
            Ok((number, acceptor)) => {
                shared.trace.note(format_args!("n{from} connects to n{to} (#{number})"));
                acceptor.into_iter().for_each(Waker::wake);
                let ours = self.end(&there, &back, from);
                shared.pass(to, from).await;
                Ok(Box::new(ours))
            }
            Err(theirs) => {
                drop(theirs);
                shared.pass(to, from).await;
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }
    }

    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let mut ports = self.shared.ports.lock();
        if ports.open.contains_key(&address) || self.shared.broken.once(Sabotage::PortTaken) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        ports.hosts.insert(address, self.host);
        let port = Port { host: self.host, waiting: VecDeque::new(), acceptor: None };
        ports.open.insert(address, port);
        Ok(Box::new(SimPort { address, host: self.host, shared: Arc::clone(&self.shared) }))
    }
}

struct SimPort {
    address: SocketAddr,
    host: usize,
    shared: Arc<Shared>,
}

#[async_trait]
impl Listener for SimPort {
    fn address(&self) -> SocketAddr {
        self.address
    }

    async fn accept(&mut self) -> io::Result<Accepted> {
        let end = poll_fn(|context| {
            if self.shared.pauses[self.host].holds(context) {
                return Poll::Pending;
            }
            let mut ports = self.shared.ports.lock();
            let port = ports.open.get_mut(&self.address).expect("open until dropped");
            match port.waiting.pop_front() {
                Some(end) => Poll::Ready(end),
                None => {
                    port.acceptor = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        let from = SocketAddr::new(address(end.inn.from).ip(), 0);
        Ok(Accepted::plain(Box::new(end), from))
    }
}

impl Drop for SimPort {
    fn drop(&mut self) {
        let port = self.shared.ports.lock().open.remove(&self.address);
        drop(port);
    }
}
