//! `feedline bench compare` runs the quick config of the repository from start to end, writes a result and
//! a page, and leaves nothing; an interrupted one leaves nothing either.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, wait_until};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The command in the sandbox, with everything that it writes below it.
fn compare(sandbox: &Sandbox, config: &Path, flags: &[&str]) -> Command {
    let mut command = sandbox.feedline(&["bench", "compare"]);
    command.arg(config).args(flags);
    command.arg("--dir").arg(sandbox.path("bench")).arg("--results").arg(sandbox.path("results"));
    let dali = std::env::var_os("FEEDLINE_DALI_PYTHON")
        .map_or_else(|| repository().join(".venv-dali/bin/python"), PathBuf::from);
    command.env("FEEDLINE_DALI_PYTHON", dali);
    let juicefs = std::env::var_os("FEEDLINE_JUICEFS")
        .map_or_else(|| repository().join(".venv/bin/juicefs"), PathBuf::from);
    command.env("FEEDLINE_JUICEFS", juicefs);
    command
}

#[track_caller]
fn assert_nothing_left(sandbox: &Sandbox) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(sandbox.path("bench").to_str().unwrap()),
        "a mount is left:\n{mounts}"
    );
    wait_until("all processes are gone", || sandbox.processes().is_empty());
    for entry in std::fs::read_dir(sandbox.path("bench")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(name.to_str().unwrap().starts_with("compare-"), "{name:?} is left");
    }
}

/// The only result with this ending.
#[track_caller]
fn result(sandbox: &Sandbox, ending: &str) -> String {
    let all = std::fs::read_dir(sandbox.path("results")).unwrap();
    let mut fitting = all.map(|entry| entry.unwrap().path());
    let path = fitting.find(|path| path.extension().is_some_and(|it| it == ending)).unwrap();
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_quick_config_runs_to_its_end_and_the_page_shows_its_result() {
    let sandbox = Sandbox::new();
    let config = repository().join("bench/configs/quick.toml");
    // Strict: this machine has all of it, or scripts/setup test was not run.
    let ran = Ran::of(&mut compare(&sandbox, &config, &["--strict"]));
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    let json: Value = serde_json::from_str(&result(&sandbox, "json")).unwrap();
    let files = json["files"].as_u64().unwrap();
    let cases = json["cases"].as_array().unwrap();
    // Two numbers of readers with six systems; fio, DALI and torch with the five that are file systems.
    assert_eq!(cases.len(), 2 * 6 + 3 * 5);
    for case in cases {
        let epochs = case["epochs"].as_array().unwrap();
        assert_eq!(epochs.len(), 3);
        for epoch in epochs {
            let round = &epoch["rounds"][0];
            assert_eq!(round["pass"]["files"].as_u64(), Some(files), "{case}");
            assert!(epoch["files_per_s"].as_f64().unwrap() > 0.0, "{case}");
        }
        let gets = |epoch: usize| epochs[epoch]["rounds"][0]["requests"]["get"].as_u64().unwrap();
        match case["system"].as_str().unwrap() {
            "feedline" | "rclone" => {
                assert_eq!([gets(0), gets(1), gets(2)], [files, 0, 0], "{case}");
            }
            "http" => assert_eq!([gets(0), gets(1), gets(2)], [files; 3], "{case}"),
            "ext4" => assert_eq!([gets(0), gets(1), gets(2)], [0; 3], "{case}"),
            // What it says of its cache decides how often it asks again; the data set was imported once.
            "JuiceFS" => assert!(gets(0) >= files, "{case}"),
            _ => assert!(epochs[0]["to_baseline"].as_f64() == Some(1.0), "{case}"),
        }
        assert_disk_bytes(case, json["bytes"].as_u64().unwrap());
    }
    let versions = &json["versions"];
    for (name, says) in [("dali", "DALI "), ("torch", "torch "), ("torch", "torchvision ")] {
        assert!(versions[name].as_str().unwrap().contains(says), "{versions}");
    }
    let import = &json["import"]["requests"];
    assert!(import["get"].as_u64().unwrap() >= files, "{import}");
    assert!(import["other"].as_u64().unwrap() >= files, "{import}");
    let page = result(&sandbox, "html");
    for part in [
        "Quick comparison",
        "<rect",
        "<polyline",
        "native, 8 readers",
        "fio, 4 readers",
        "one read(2) of a whole file",
        "the import into JuiceFS took",
        "DALI",
        "p99 ms",
        "disk MiB",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    assert!(!page.contains("<script") && !page.contains("src="), "the page loads something");
    assert_nothing_left(&sandbox);
}

/// Who keeps the files on the disk says that they take as much there, in each epoch; who keeps none says nothing.
fn assert_disk_bytes(case: &Value, bytes: u64) {
    for epoch in case["epochs"].as_array().unwrap() {
        let disk = epoch["rounds"][0]["disk_bytes"].as_u64();
        match case["system"].as_str().unwrap() {
            "http" | "ext4" => assert_eq!(disk, None, "{case}"),
            // In blocks of 4 KiB, 60 small files and what is known of them.
            _ => {
                assert!((bytes..4 * bytes).contains(&disk.unwrap()), "{disk:?} of {bytes}: {case}")
            }
        }
    }
}

#[test]
fn after_a_restart_of_its_daemon_a_system_has_what_it_kept_on_the_disk() {
    let sandbox = Sandbox::new();
    let config = sandbox.path("config.toml");
    let text = "title = 't'\nrounds = 1\nepochs = ['cold', 'restart']\n[data]\nfiles = 40\nclasses = 2\n\
        mean_bytes = 20000\n[bucket]\nlatency = '1ms'\n[[client]]\nkind = 'native'\nreaders = [2]\n\
        [[system]]\nname = 'feedline'\nkind = 'feedline'\n[[system]]\nname = 'rclone'\nkind = 'rclone'\n\
        [[system]]\nname = 'rclone plain'\nkind = 'rclone'\ncached = false\n\
        [[system]]\nname = 'http'\nkind = 'http'\n[[system]]\nname = 'ext4'\nkind = 'ext4'\n";
    std::fs::write(&config, text).unwrap();
    Ran::of(&mut compare(&sandbox, &config, &["--strict"])).ok();
    let json: Value = serde_json::from_str(&result(&sandbox, "json")).unwrap();
    let of = |system: &str, epoch: usize, verb: &str| {
        let cases = json["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["system"] == system).unwrap();
        assert_eq!(case["epochs"][1]["state"], "restart");
        case["epochs"][epoch]["rounds"][0]["requests"][verb].as_u64().unwrap()
    };
    let gets = |system| [of(system, 0, "get"), of(system, 1, "get")];
    assert_eq!(
        (gets("feedline"), of("feedline", 1, "list")),
        ([40, 0], 0),
        "nothing is asked again"
    );
    assert_eq!(gets("rclone"), [40, 0]);
    assert!(0 < of("rclone", 1, "list"), "a new daemon without listings");
    assert!(40 <= of("rclone plain", 1, "get"), "it kept nothing");
    assert_eq!((gets("http"), gets("ext4")), ([40, 40], [0, 0]), "there is nothing to restart");
    assert!(result(&sandbox, "html").contains("after a restart"));
    assert_nothing_left(&sandbox);
}

#[test]
fn the_flags_in_every_config_are_ones_of_mount() {
    let sandbox = Sandbox::new();
    let mut tried = 0;
    for entry in std::fs::read_dir(repository().join("bench/configs")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // Only systems of our own have flags there, and TOML writes a list of strings as JSON does.
        for flags in text.lines().filter_map(|line| line.strip_prefix("flags = ")) {
            let flags: Vec<String> = serde_json::from_str(flags).unwrap();
            // -f checks everything and mounts nothing.
            let mut command = sandbox.feedline(&["mount", "s3://b", sandbox.mnt_str(), "-f"]);
            Ran::of(command.args(&flags)).ok();
            tried += 1;
        }
    }
    assert!(tried > 0, "no config has flags");
}

#[test]
fn what_is_not_installed_is_named_and_left_out_unless_strict() {
    let sandbox = Sandbox::new();
    let config = sandbox.path("config.toml");
    let text = "title = 't'\nrounds = 1\nepochs = ['cold']\n[data]\nfiles = 4\nclasses = 2\n\
        mean_bytes = 20000\n[bucket]\nlatency = '1ms'\n[[client]]\nkind = 'native'\nreaders = [2]\n\
        [[client]]\nkind = 'torch'\n[[system]]\nname = 'feedline'\nkind = 'feedline'\n";
    std::fs::write(&config, text).unwrap();
    let absent = |flags: &[&str]| {
        let mut command = compare(&sandbox, &config, flags);
        Ran::of(command.env("FEEDLINE_TORCH_PYTHON", "/absent/python"))
    };
    let strict = absent(&["--strict"]);
    strict.fails(1, &["torch", "/absent/python", "scripts/setup loaders"]);
    let ran = absent(&[]);
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    let json: Value = serde_json::from_str(&result(&sandbox, "json")).unwrap();
    assert_eq!(json["left_out"][0]["name"], "torch");
    assert_eq!(json["cases"].as_array().unwrap().len(), 1);
    assert!(result(&sandbox, "html").contains("Left out: torch"));
    assert_nothing_left(&sandbox);
}

/// Starts a comparison of one reader through two systems; the bucket answers after `latency`.
fn begin(sandbox: &Sandbox, latency: &str) -> Child {
    let config = sandbox.path("config.toml");
    let text = "title = 't'\nrounds = 100\nepochs = ['cold']\n[data]\nfiles = 60\nclasses = 2\n\
        mean_bytes = 20000\n[bucket]\nlatency = 'LATENCY'\n[[client]]\nkind = 'native'\n\
        readers = [1]\n[[system]]\nname = 'feedline'\nkind = 'feedline'\n[[system]]\nname = 'ext4'\n\
        kind = 'ext4'\n";
    std::fs::write(&config, text.replace("LATENCY", latency)).unwrap();
    let mut command = compare(sandbox, &config, &[]);
    let log = std::fs::File::create(sandbox.path("said")).unwrap();
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Sends what Ctrl-C sends. Whoever is interrupted fails, and says `words`.
#[track_caller]
fn interrupt(sandbox: &Sandbox, mut child: Child, words: &str) {
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let said = std::fs::read_to_string(sandbox.path("said")).unwrap();
    assert!(said.contains(words), "{said}");
    assert_nothing_left(sandbox);
}

#[test]
fn a_comparison_interrupted_in_its_first_round_leaves_nothing() {
    let sandbox = Sandbox::new();
    // So slow that it is certainly still reading.
    let child = begin(&sandbox, "500ms");
    wait_until("it has mounted", || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(sandbox.path("bench").to_str().unwrap())
    });
    interrupt(&sandbox, child, "nothing is written");
    assert!(!sandbox.path("results").exists());
}

#[test]
fn an_interrupted_comparison_writes_the_rounds_that_had_ended_and_says_that_they_are_a_part() {
    let sandbox = Sandbox::new();
    let child = begin(&sandbox, "1ms");
    wait_until("two rounds have ended", || {
        let said = std::fs::read_to_string(sandbox.path("said")).unwrap_or_default();
        said.matches("round 3 of 100").count() == 1
    });
    interrupt(&sandbox, child, "as a part");
    let json: Value = serde_json::from_str(&result(&sandbox, "json")).unwrap();
    assert_eq!(json["partial"], true);
    let cases = json["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let rounds = case["epochs"][0]["rounds"].as_array().unwrap();
        assert!((2..100).contains(&rounds.len()), "{}", rounds.len());
        assert!(rounds.iter().all(|round| round["pass"]["files"] == 60), "{case}");
    }
    let page = result(&sandbox, "html");
    assert!(page.contains("INTERRUPTED: median of the rounds that had ended"), "{page}");
    let mut names = std::fs::read_dir(sandbox.path("results")).unwrap();
    assert!(
        names.all(|it| it.unwrap().file_name().to_str().unwrap().starts_with("config-partial-"))
    );
}

#[test]
fn a_result_carries_the_commit_that_the_program_was_built_from_wherever_it_runs() {
    let sandbox = Sandbox::new();
    let elsewhere = sandbox.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("file"), "read").unwrap();
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=t", "-c", "user.email=t@t"];
        let mut command = Command::new("git");
        Ran::of(command.current_dir(&elsewhere).args(who).args(args)).ok()
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message", "another program"]);
    let other = git(&["rev-parse", "--short=12", "HEAD"]);
    let commit = |dir: &Path| {
        let mut command = sandbox.feedline(&["bench", "read", "--json"]);
        let json = Ran::of(command.arg(&elsewhere).current_dir(dir)).json();
        json["facts"]["commit"].as_str().unwrap().to_owned()
    };
    let here = commit(&repository());
    assert_eq!(commit(&elsewhere), here);
    assert_ne!(here.trim_end_matches('+'), other.trim());
    let is_hash = here.trim_end_matches('+').bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_hash || here == "unknown", "{here}");
}
