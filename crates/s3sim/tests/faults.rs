//! Every fault, seen from the far end of a TCP connection.
#![expect(clippy::disallowed_methods, reason = "it measures a server on the real clock")]

mod common;

use std::time::{Duration, Instant};

use common::{End, ask, get};
use feedline_s3sim::{FaultKind, FaultRule, Faults, S3Sim, Verb};

const SIZE: usize = 100_000;

fn served() -> S3Sim {
    let sim = S3Sim::builder().empty().seed(7).start().expect("a free port");
    sim.put_object("b", "key", vec![b'x'; SIZE]);
    sim.put_object("b", "other", vec![b'y'; SIZE]);
    sim
}

#[test]
fn a_refusal_has_its_status_and_code_and_ends_after_the_next_n() {
    let sim = served();
    for (kind, status, code) in [
        (FaultKind::InternalError, 500, "InternalError"),
        (FaultKind::SlowDown, 503, "SlowDown"),
        (FaultKind::Forbidden, 403, "AccessDenied"),
    ] {
        // Given a fault for two requests, when three come, then two are refused and one is served.
        sim.set_faults(FaultRule::next(kind, 2));
        for _ in 0..2 {
            let got = get(&sim, "/b/key");
            assert_eq!((got.status, got.end), (status, End::Whole));
            assert!(got.text().contains(&format!("<Code>{code}</Code>")), "{}", got.text());
        }
        assert_eq!(get(&sim, "/b/key").status, 200);
        assert_eq!(sim.stats().by_status[&status], 2);
    }
}

#[test]
fn a_reset_comes_after_half_the_body_or_before_the_head() {
    let sim = served();
    sim.set_faults(FaultRule::next(FaultKind::Reset, 1));
    let got = get(&sim, "/b/key");
    assert_eq!(got.end, End::Reset);
    assert!(got.body.len() <= SIZE / 2, "{} bytes came", got.body.len());
    sim.set_faults(FaultRule::next(FaultKind::Reset, 1).at_byte(0));
    let got = get(&sim, "/b/key");
    assert_eq!((got.status, got.end), (0, End::Reset));
    assert_eq!(sim.stats().by_status[&0], 1);
    assert_eq!(get(&sim, "/b/key").body.len(), SIZE);
}

#[test]
fn a_short_body_keeps_its_promise_of_length_and_breaks_it_in_good_order() {
    let sim = served();
    sim.set_faults(FaultRule::next(FaultKind::ShortBody, 1).at_byte(1_000));
    let got = get(&sim, "/b/key");
    assert_eq!((got.status, got.end, got.body.len()), (200, End::Short, 1_000));
    assert_eq!(got.header("content-length"), SIZE.to_string());
    assert_eq!(sim.stats().bytes_out, 1_000);
}

#[test]
fn a_stall_delays_the_rest_and_loses_nothing() {
    let sim = served();
    sim.set_faults(FaultRule::next(FaultKind::Stall, 1).stall_ms(300));
    let begun = Instant::now();
    let got = get(&sim, "/b/key");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((got.status, got.end, got.body.len()), (200, End::Whole, SIZE));
}

#[test]
fn a_wrong_tag_is_the_only_thing_wrong() {
    let sim = served();
    let right = get(&sim, "/b/key");
    sim.set_faults(FaultRule::next(FaultKind::WrongEtag, 1));
    let wrong = get(&sim, "/b/key");
    assert_ne!(wrong.header("etag"), right.header("etag"));
    assert_eq!((wrong.status, &wrong.body), (right.status, &right.body));
}

#[test]
fn a_rule_hits_only_its_keys_and_verbs() {
    let sim = served();
    let rule = FaultRule::every(FaultKind::InternalError).for_keys("the").for_verb(Verb::Get);
    sim.set_faults(rule);
    assert_eq!(get(&sim, "/b/other").status, 500);
    assert_eq!(get(&sim, "/b/key").status, 200);
    assert_eq!(ask(&sim, "HEAD", "/b/other", &[], b"").status, 200);
    sim.set_faults(Faults::none());
    assert_eq!(get(&sim, "/b/other").status, 200);
}

#[test]
fn a_probability_is_kept_and_a_seed_repeats_it() {
    let run = || {
        let sim = served();
        sim.set_faults(FaultRule::probability(FaultKind::SlowDown, 0.3));
        (0..1_000).map(|_| get(&sim, "/b?max-keys=0").status).collect::<Vec<_>>()
    };
    let statuses = run();
    let refused = statuses.iter().filter(|status| **status == 503).count();
    // Four standard deviations of a thousand draws at 0.3 are 58.
    assert!((242..=358).contains(&refused), "{refused} of 1000");
    assert_eq!(statuses, run());
}

#[test]
fn faults_can_be_set_and_read_over_http() {
    let sim = served();
    let json = br#"{"rules":[{"kind":"slow_down","next":1,"key_contains":"key"}]}"#;
    assert_eq!(ask(&sim, "POST", "/__faults", &[], json).status, 204);
    assert!(get(&sim, "/__faults").text().contains("slow_down"));
    assert_eq!(get(&sim, "/b/key").status, 503);
    assert_eq!(get(&sim, "/b/key").status, 200);
    let typo = ask(&sim, "POST", "/__faults", &[], br#"{"rules":[{"kind":"typo"}]}"#);
    assert_eq!(typo.status, 400);
    assert!(typo.text().contains("typo"), "{}", typo.text());
}
