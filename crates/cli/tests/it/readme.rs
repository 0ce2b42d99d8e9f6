//! The commands and the configuration that README.md shows: they must work as they stand.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::sandbox::{Ran, Sandbox, content};

/// The blocks of README.md in this language, in order.
fn blocks(language: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let text = fs::read_to_string(&file).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.strip_prefix("```") == Some(language) {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(block.join("\n") + "\n");
        }
    }
    assert!(!blocks.is_empty(), "no ```{language} in {}", file.display());
    blocks
}

#[test]
fn every_command_of_the_readme_succeeds_in_its_order() {
    let sandbox = Sandbox::new();
    for class in ["n01440764", "n01443537", "n01484850"] {
        for image in 0..4 {
            let key = format!("imagenet/train/{class}/{class}_{image}.JPEG");
            sandbox.sim.put_object("my-bucket", &key, content(&key, 90_000 + image));
        }
    }
    let work = sandbox.path("work");
    fs::create_dir(&work).unwrap();
    let cache = sandbox.path("readme-cache").display().to_string();
    let bin = Path::new(env!("CARGO_BIN_EXE_feedline")).parent().unwrap().display().to_string();
    for block in blocks("sh") {
        let script =
            block.replace("/mnt/data", sandbox.mnt_str()).replace("/var/cache/feedline", &cache);
        let mut shell = sandbox.command("sh");
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
        // What the README says of the cache is what counts, not what other tests set.
        shell.arg("-eu").current_dir(&work).env("PATH", path).env_remove("FEEDLINE_CACHE");
        let ran = feed(&mut shell, &script);
        assert_eq!(ran.code, Some(0), "{script}\n{}\n{}", ran.stdout, ran.stderr);
    }
    assert!(!sandbox.is_mounted(), "the README unmounts what it mounts");
    sandbox.assert_gone();
}

/// Runs a command with this on its standard input.
fn feed(command: &mut Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A closed pipe is told by the exit code.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Ran::from(child.wait_with_output().unwrap())
}

#[test]
fn every_configuration_of_the_readme_is_accepted_and_used() {
    let sandbox = Sandbox::new();
    for (index, block) in blocks("toml").into_iter().enumerate() {
        let ssd = sandbox.path("ssd").display().to_string();
        let file = sandbox.path(&format!("readme-{index}.toml"));
        fs::write(&file, block.replace("/ssd", &ssd)).unwrap();
        let mut command = sandbox.feedline(&["config", "--json", "--config"]);
        command.arg(&file).env_remove("FEEDLINE_CACHE");
        let settings = Ran::of(&mut command).json();
        let shown = file.display().to_string();
        let from_file =
            |setting: &&serde_json::Value| setting["source"].as_str().unwrap().contains(&shown);
        let used = settings.as_array().unwrap().iter().filter(from_file).count();
        // Each `name = value` at the top and each table is one setting that came from this file.
        let top = block.split("\n[").next().unwrap().lines().filter(|l| l.contains(" = ")).count();
        let tables = block.lines().filter(|line| line.starts_with("[[")).count();
        assert_eq!(used, top + tables, "{settings:#}\n{block}");
    }
}
