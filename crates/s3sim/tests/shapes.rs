//! Delays, bandwidth and the request limit, seen by clients. The distributions themselves are
//! tested on a virtual clock beside the code; here only what cannot be flaky: lower bounds on time,
//! and counts.
#![expect(clippy::disallowed_methods, reason = "it measures a server on the real clock")]

mod common;

use std::time::{Duration, Instant};

use common::get;
use feedline_s3sim::S3Sim;

fn timed(sim: &S3Sim, path: &str) -> Duration {
    let begun = Instant::now();
    assert_eq!(get(sim, path).status, 200);
    begun.elapsed()
}

#[test]
fn the_first_byte_waits_and_a_list_has_a_wait_of_its_own() {
    let sim = S3Sim::builder().latency_ms(40).list_latency_ms(120).start().expect("a free port");
    sim.put_object("b", "key", "x");
    assert!(timed(&sim, "/b/key") >= Duration::from_millis(40));
    assert!(timed(&sim, "/b?list-type=2") >= Duration::from_millis(120));
}

#[test]
fn a_connection_is_held_to_its_bandwidth_and_all_together_to_theirs() {
    // Given 1 MB/s per connection and 2 MB/s in total, and a burst allowance of a few milliseconds,
    let builder = S3Sim::builder().connection_bandwidth(1_000_000).bandwidth(2_000_000);
    let sim = builder.start().expect("a free port");
    sim.put_object("b", "key", vec![0; 200_000]);
    // when one connection takes 0.2 MB, then it needs 0.2 s;
    assert!(timed(&sim, "/b/key") >= Duration::from_millis(190));
    // when five take 1 MB together, then they need 0.5 s.
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| timed(&sim, "/b/key"));
        }
    });
    assert!(begun.elapsed() >= Duration::from_millis(490), "{:?}", begun.elapsed());
}

#[test]
fn requests_above_the_rate_are_told_to_slow_down() {
    let sim = S3Sim::builder().rate_limit(10).start().expect("a free port");
    sim.put_object("b", "key", "x");
    let begun = Instant::now();
    for _ in 0..300 {
        get(&sim, "/b/key");
    }
    // A tenth of a second's worth at once, then 10 a second and not one more.
    let served = sim.stats().by_status[&200] as f64;
    let most = 1.0 + 10.0 * begun.elapsed().as_secs_f64();
    assert!((1.0..=most + 1.0).contains(&served), "{served} served, at most {most}");
    assert_eq!(sim.stats().by_status.values().sum::<u64>(), 300);
    assert!(sim.stats().by_status.contains_key(&503), "the limit was never met");
}
