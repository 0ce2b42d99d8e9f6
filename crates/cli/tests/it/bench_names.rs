//! `feedline bench names` with few names: it lists all of them over HTTP, starts again without a request, and
//! leaves nothing.

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox};

#[test]
fn a_bucket_of_made_up_names_is_listed_once_and_known_at_the_next_start() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.feedline(&["bench", "names", "--names", "20500", "--latency", "1ms"]);
    command.arg("--dir").arg(sandbox.path("bench")).arg("--results").arg(sandbox.path("results"));
    let said = Ran::of(&mut command).ok();
    for row in ["listing", "memory", "start", "start-requests"] {
        assert!(said.lines().any(|line| line.starts_with(row)), "{said}");
    }
    let result =
        std::fs::read_dir(sandbox.path("results")).unwrap().next().unwrap().unwrap().path();
    let json: Value = serde_json::from_str(&std::fs::read_to_string(result).unwrap()).unwrap();
    // One for the root and one for each folder, and nothing else.
    let requests = &json["listing"]["requests"];
    let of = |verb: &str| requests[verb].as_u64().unwrap();
    assert_eq!([of("list"), of("get"), of("head"), of("other")], [1 + 21, 0, 0, 0]);
    let row = |name: &str| {
        let rows = json["rows"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap().clone()
    };
    assert_eq!(
        (&row("start-requests")["figure"], &row("start-requests")["met"]),
        (&0.0.into(), &true.into())
    );
    assert!(0.0 < row("listing")["figure"].as_f64().unwrap(), "{json:#}");
    assert!(20_500 < json["listing"]["file_bytes"].as_u64().unwrap(), "{json:#}");
    assert_eq!(std::fs::read_dir(sandbox.path("bench")).unwrap().count(), 0, "something is left");
    assert_eq!(sandbox.mounts(), 0);
}
