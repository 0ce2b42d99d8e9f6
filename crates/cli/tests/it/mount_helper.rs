//! `mount -t fuse.feedline`, fstab, and libfuse's `mount.fuse`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;

use crate::sandbox::{Ran, Sandbox};

/// Where mount(8) looks for helpers; no option of it names another place.
const HELPER: &str = "/sbin/mount.fuse.feedline";

/// There is one such link on a machine, so one test at a time makes it.
static LINK: Mutex<()> = Mutex::new(());

/// The link, for as long as this lives.
struct Helper;

impl Helper {
    fn install() -> Self {
        let target = env!("CARGO_BIN_EXE_feedline");
        if let Ok(existing) = fs::read_link(HELPER) {
            assert!(existing == Path::new(target) || !existing.exists(), "{HELPER} is in use");
            fs::remove_file(HELPER).unwrap();
        }
        symlink(target, HELPER).unwrap();
        Self
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = fs::remove_file(HELPER);
    }
}

fn mount_flags(sandbox: &Sandbox) -> String {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = text.lines().find(|line| line.split(' ').nth(4) == Some(sandbox.mnt_str()));
    line.unwrap().to_owned()
}

#[test]
fn mount_calls_the_helper_and_its_options_are_settings() {
    let _one = LINK.lock().unwrap_or_else(|poison| poison.into_inner());
    let _helper = Helper::install();
    let sandbox = Sandbox::new();
    let options = "ro,noexec,_netdev,x-systemd.automount,metadata_ttl=77s,allow_other";
    let mut mount = sandbox.command("mount");
    mount.args(["-t", "fuse.feedline", "s3://b", sandbox.mnt_str(), "-o", options]);
    Ran::of(&mut mount).ok();
    sandbox.read_right("train/a.jpg");
    assert!(mount_flags(&sandbox).contains("noexec"), "{}", mount_flags(&sandbox));
    let config = sandbox.run(&["config", "--json", sandbox.mnt_str()]).json();
    let value = |name: &str| {
        let found = config.as_array().unwrap().iter().find(|setting| setting["name"] == name);
        found.unwrap()["value"].as_str().unwrap().to_owned()
    };
    assert_eq!((value("metadata_ttl").as_str(), value("allow_other").as_str()), ("77s", "true"));
    // umount(8) knows nothing of us: the daemon notices, and ends.
    let mut umount = sandbox.command("umount");
    Ran::of(umount.arg(&sandbox.mnt)).ok();
    sandbox.assert_gone();
}

#[test]
fn a_line_of_fstab_mounts_and_a_bad_one_says_why() {
    let _one = LINK.lock().unwrap_or_else(|poison| poison.into_inner());
    let _helper = Helper::install();
    let sandbox = Sandbox::new();
    let fstab = sandbox.path("fstab");
    let cache = sandbox.path("other-cache");
    let from_fstab = |options: &str| {
        let line = format!("s3://b {} fuse.feedline {options} 0 0\n", sandbox.mnt_str());
        fs::write(&fstab, line).unwrap();
        let mut mount = sandbox.command("mount");
        Ran::of(mount.arg("-T").arg(&fstab).arg(&sandbox.mnt))
    };
    let bad = from_fstab("defaults,_netdev,metadata-tll=1h");
    assert_ne!(bad.code, Some(0));
    assert!(bad.stderr.contains("metadata-tll"), "{bad:#?}");
    sandbox.assert_gone();
    from_fstab(&format!("defaults,_netdev,nofail,cache={}:1GiB", cache.display())).ok();
    sandbox.read_right("val/c.jpg");
    assert!(cache.is_dir(), "the option names the cache");
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn mount_fuse_finds_us_in_path() {
    let sandbox = Sandbox::new();
    let mut mount = sandbox.command("mount.fuse3");
    let bin = Path::new(env!("CARGO_BIN_EXE_feedline")).parent().unwrap();
    let path = format!("{}:{}:/usr/sbin:/sbin", bin.display(), std::env::var("PATH").unwrap());
    let args = ["s3://b", sandbox.mnt_str(), "-t", "fuse.feedline", "-o", "rw,noatime"];
    Ran::of(mount.env("PATH", path).args(args)).ok();
    sandbox.read_right("train/b.jpg");
    sandbox.umount();
    sandbox.assert_gone();
}
