//! Names that people and programs really give to files, and keys that are no file names at all.

use std::fs;

use crate::sandbox::{Ran, Sandbox, content};

/// Names that a bucket takes and a shell, a URL or a format string trips over.
const ODD: [&str; 8] = [
    "with space.jpg",
    "ünïcode-日本-é.jpg",
    "it's a \"quote\".jpg",
    "100%25-%20-%s.jpg",
    "-dash.jpg",
    "--recursive",
    "plus+and&?#=;$HOME`x`.jpg",
    "back\\slash*[a].jpg",
];

#[test]
fn odd_names_go_through_the_mount_and_every_command() {
    let sandbox = Sandbox::new();
    for name in ODD {
        let key = format!("odd names/{name}");
        sandbox.sim.put_object("b", &key, content(&key, 5_000));
    }
    sandbox.mount(&[]);
    let dir = sandbox.mnt.join("odd names");
    for name in ODD {
        let bytes = fs::read(dir.join(name)).unwrap();
        assert!(bytes == content(&format!("odd names/{name}"), 5_000), "{name}");
    }
    let listed = sandbox.run(&["ls", dir.to_str().unwrap()]).ok();
    let mut expected = ODD.to_vec();
    expected.sort_unstable();
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
    for name in ODD {
        let path = dir.join(name);
        let path = path.to_str().unwrap();
        let stat = sandbox.run(&["stat", "--json", path]).json();
        assert_eq!(stat["path"], format!("odd names/{name}"));
        assert_eq!(stat["location"], format!("s3://b/odd names/{name}"));
        assert!(sandbox.run(&["stat", path]).ok().contains(name));
        assert_eq!(sandbox.run(&["du", "--json", path]).json()["bytes"], 5_000);
        assert_eq!(sandbox.run(&["ls", path]).ok(), format!("{name}\n"));
        sandbox.run(&["pin", path]).ok();
        let url = format!("s3://b/odd names/{name}");
        assert_eq!(sandbox.run(&["stat", "--json", &url]).json()["pinned"], true, "{name}");
        sandbox.run(&["unpin", path]).ok();
        // As typed within the folder: after `--` a dash is no flag.
        for command in ["stat", "du", "pin", "unpin", "check", "free"] {
            let mut here = sandbox.feedline(&[command, "--", name]);
            Ran::of(here.current_dir(&dir)).ok();
        }
    }
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn keys_that_are_no_path_are_hidden_and_counted_and_the_rest_of_the_folder_works() {
    let sandbox = Sandbox::new();
    let long = format!("evil/{}", "x".repeat(256));
    let hostile =
        ["evil//empty", "evil/../up", "evil/./dot", "evil/new\nline.jpg", &long, "evil/both"];
    for key in hostile {
        sandbox.sim.put_object("b", key, b"hidden");
    }
    for key in ["evil/both/inside.jpg", "evil/good.jpg"] {
        sandbox.sim.put_object("b", key, content(key, 3_000));
    }
    sandbox.mount(&[]);
    let dir = sandbox.mnt.join("evil");
    let mut names: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["both", "good.jpg"]);
    for key in ["evil/both/inside.jpg", "evil/good.jpg"] {
        assert!(sandbox.read(key).unwrap() == content(key, 3_000), "{key}");
    }
    assert_eq!(sandbox.run(&["ls", dir.to_str().unwrap()]).ok(), "both/\ngood.jpg\n");
    assert_eq!(sandbox.run(&["du", "--json", dir.to_str().unwrap()]).json()["files"], 2);
    let status = sandbox.run(&["status", "--json", sandbox.mnt_str()]).json();
    let hidden = &status["namespace"]["hidden"];
    for (reason, count) in [
        ("empty_part", 1),
        ("dot_part", 2),
        ("control_character", 1),
        ("part_too_long", 1),
        ("shadowed_by_directory", 1),
    ] {
        assert_eq!(hidden[reason], count, "{reason}: {hidden:#}");
    }
    let text = sandbox.run(&["status"]).ok();
    assert!(text.contains("hidden keys") && text.contains("dot_part 2"), "{text}");
    // A key is the bucket's text: its line feed must not make a line of its own.
    assert!(!text.lines().any(|line| line.starts_with("line.jpg")), "{text}");
    sandbox.umount();
    sandbox.assert_gone();
}
