//! Measures the CPU time of one GET of 110 KB: through the store, and with a bare HTTP client.
//!
//! The store, and in its turn hyper alone, run on this program's one thread; the simulator runs on
//! its own and is not counted. Ways and concurrencies are alternated, `--rounds` times. Run with
//! `cargo run --release -p feedline-store --example cpu_per_get`.
#![expect(clippy::disallowed_methods, reason = "a measurement owns its runtime and its threads")]

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use feedline_model::{BlockSource as _, ListRequest, Lister as _, Object, Priority};
use feedline_s3sim::S3Sim;
use feedline_store::{Environment, Store, StoreConfig};
use feedline_testkit::{RealClock, object_bytes};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The mean size of an ImageNet file.
const OBJECT_BYTES: u64 = 110_000;

/// GETs of one figure; about a quarter of a second of CPU time.
const GETS: usize = 4096;

/// Runs of each figure.
const ROUNDS: usize = 3;

/// CPU time that this thread has used, in nanoseconds.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number")
}

/// Runs `GETS` GETs, `in_flight` at a time, and returns microseconds of CPU time for each.
async fn measure<F: Future<Output = ()>>(in_flight: usize, mut get: impl FnMut(usize) -> F) -> f64 {
    let before = cpu_ns();
    for _ in 0..GETS / in_flight {
        futures::future::join_all((0..in_flight).map(&mut get)).await;
    }
    (cpu_ns() - before) as f64 / 1000.0 / (GETS / in_flight * in_flight) as f64
}

async fn connect(sim: &S3Sim) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(sim.address()).await.expect("the simulator listens");
    stream.set_nodelay(true).expect("a socket");
    let shake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shake.expect("HTTP");
    tokio::spawn(connection);
    sender
}

/// One GET with hyper alone, into one buffer of the right size.
async fn bare_get(sender: Arc<tokio::sync::Mutex<SendRequest<Empty<Bytes>>>>) {
    let request = http::Request::get("/bucket/k").header("host", "localhost").body(Empty::new());
    let mut sender = sender.lock().await;
    sender.ready().await.expect("the connection stays");
    let answer = sender.send_request(request.expect("valid")).await.expect("answered");
    let mut bytes = Vec::with_capacity(OBJECT_BYTES as usize);
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        bytes.extend_from_slice(&frame.expect("a frame").into_data().expect("data"));
    }
    assert_eq!(bytes.len() as u64, OBJECT_BYTES);
}

fn open(sim: &S3Sim, signed: bool) -> Arc<Store> {
    let mut config = StoreConfig::new("s3://bucket");
    config.endpoint = Some(sim.endpoint());
    config.anonymous = !signed;
    let keys = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    config.environment = Environment::from_pairs(keys);
    let handle = tokio::runtime::Handle::current();
    Store::open(&config, RealClock::shared(), handle, 1).expect("opens")
}

async fn object(store: &Store) -> Object {
    let page = store
        .list(&ListRequest { prefix: "k".into(), delimiter: false, after: None, token: None })
        .await;
    let version = page.expect("lists").objects[0].version.clone();
    Object { source: store.source(), key: "k".into(), version }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let sim = S3Sim::builder().empty().start().expect("starts");
    sim.put_object("bucket", "k", object_bytes(1, OBJECT_BYTES));
    let stores = [("store, signed", open(&sim, true)), ("store, unsigned", open(&sim, false))];
    let object = object(&stores[0].1).await;
    for in_flight in [1, 64, 256] {
        let mut senders = Vec::new();
        for _ in 0..in_flight {
            senders.push(Arc::new(tokio::sync::Mutex::new(connect(&sim).await)));
        }
        for round in 0..ROUNDS {
            let bare = measure(in_flight, |index| bare_get(senders[index].clone())).await;
            print!("{in_flight:3} in flight, round {round}: bare hyper {bare:.0} us");
            for (name, store) in &stores {
                let get = |_| async {
                    let read = store.read(&object, 0..OBJECT_BYTES, Priority::Demand).await;
                    assert_eq!(read.expect("served").len() as u64, OBJECT_BYTES);
                };
                let us = measure(in_flight, get).await;
                print!("; {name} {us:.0} us ({:.2} x)", us / bare);
            }
            println!();
        }
    }
}
