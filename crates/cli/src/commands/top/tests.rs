//! Frames drawn from answers that are written down here.

use super::*;

fn node(address: &str, uptime_s: f64, store_bytes: u64) -> NodeSummary {
    NodeSummary {
        node: format!("{address}-id"),
        address: address.into(),
        this: address == "a:1",
        state: "up".into(),
        version: "1.0".into(),
        uptime_s,
        sources: vec!["s3://b".into()],
        epoch: 3,
        fingerprint: "f".into(),
        quota_bytes: 4 << 30,
        used_bytes: 1 << 30,
        objects: 1_000,
        hits: store_bytes >> 20,
        store_bytes,
        ..NodeSummary::default()
    }
}

/// A load half-way.
fn load() -> feedline_node::api::LoadStatus {
    let text = r#"{"id": "1a2b3c4d", "path": "train", "manifest": false, "metadata_only": false,
        "replicas": 1, "bandwidth_bytes_per_s": 0, "state": "loading", "reason": null, "files": 10,
        "bytes": 100, "files_total": 10, "bytes_total": 100, "cached": 2, "cached_bytes": 20,
        "loaded": 3, "loaded_bytes": 30, "failed": 1, "failed_bytes": 1, "failed_by": {},
        "nodes": 2, "passed_by": {}, "started_ms": 1, "elapsed_s": 1.0, "bytes_per_s": 2048.0,
        "eta_s": 61.2}"#;
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_frame_shows_rates_of_each_node_by_its_own_clock() {
    // Given two answers a second apart for one node and two for another,
    let first = vec![node("a:1", 10.0, 0), node("b:1", 50.0, 0)];
    let mut shown = Shown::of("/mnt/data".into(), first);
    let before = lines(&shown, 150, shown.rows()).unwrap().join("\n");
    assert!(before.contains("0 B/s"), "{before}");
    shown.next(vec![node("a:1", 11.0, 8 << 20), node("b:1", 52.0, 8 << 20)]);
    // when they are drawn,
    let text = lines(&shown, 150, shown.rows()).unwrap();
    // then each has its own rate, the first line says what it is, and the second how full.
    assert!(
        text[0].starts_with("feedline top  /mnt/data  s3://b  2 of 2 nodes answer"),
        "{text:#?}"
    );
    assert!(text[0].contains("epoch 3 (f)"), "{text:#?}");
    assert!(text[1].contains("2.0 GiB of 8.0 GiB, 2,000 objects"), "{text:#?}");
    assert!(text[2].contains("12 MiB/s from the bucket"), "{text:#?}");
    let row = |name: &str| text.iter().find(|line| line.starts_with(name)).unwrap();
    assert!(row("a:1 (this)").contains("8.0 MiB/s") && row("b:1").contains("4.0 MiB/s"));
    assert!(row("a:1").contains("100.0 %"), "{text:#?}");
    assert!(text.iter().any(|line| line.contains("page cache")), "{text:#?}");
}

#[test]
fn jobs_and_troubles_stand_beneath_the_nodes() {
    let silent = NodeSummary {
        address: "c:1".into(),
        state: "down".into(),
        trouble: Some("connection refused".into()),
        ..NodeSummary::default()
    };
    let this = NodeSummary { loads: vec![load()], ..node("a:1", 1.0, 0) };
    let passing =
        NodeSummary { peers_in_trouble: vec!["c:1: silent".into()], ..node("b:1", 1.0, 0) };
    let mut shown = Shown::of("/mnt".into(), vec![this, passing, silent]);
    let text = lines(&shown, 150, shown.rows()).unwrap().join("\n");
    for words in [
        "2 of 3 nodes answer",
        "load 1a2b3c4d /train [##########..........] 5 of 10 files, 2.0 KiB/s, 1m 2s left, 1 failed",
        "node c:1 did not answer: connection refused",
        "node b:1 passes by c:1: silent",
    ] {
        assert!(text.contains(words), "{words:?} is missing:\n{text}");
    }
    // An answer that does not come leaves what is known.
    shown.fail(&anyhow::anyhow!("no answer within 15 s"));
    let text = lines(&shown, 150, shown.rows()).unwrap().join("\n");
    assert!(text.contains("no answer within 15 s") && text.contains("a:1 (this)"), "{text}");
}

#[test]
fn one_node_without_a_cluster_is_shown_by_its_mountpoint() {
    let alone = NodeSummary {
        node: String::new(),
        address: String::new(),
        mountpoint: "/mnt/x".into(),
        this: true,
        ..node("", 1.0, 0)
    };
    let shown = Shown::of("/mnt/x".into(), vec![alone]);
    let text = lines(&shown, 120, shown.rows()).unwrap().join("\n");
    assert!(text.contains("one node, no cluster") && text.contains("/mnt/x (this)"), "{text}");
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    let shown = Shown::of("/mnt".into(), vec![node("a:1", 1.0, 0), node("b:1", 1.0, 0)]);
    for (columns, rows) in [(1, 1), (20, 3), (80, 24), (400, 200)] {
        assert_eq!(lines(&shown, columns, rows).unwrap().len(), usize::from(rows));
    }
    // Nobody there is no reason to fall over.
    assert!(!lines(&Shown::of("/mnt".into(), Vec::new()), 80, 24).unwrap().is_empty());
}
