//! What a user sees when the bucket or the disk has a bad hour: right bytes, or an error after the
//! retry budget; never wrong bytes, a hang, or an error that could have been avoided.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use feedline_node::api::Status;
use feedline_s3sim::{FaultKind, FaultRule, Faults, Verb};

use crate::common::{BUCKET, Content, Site, below, bytes_of, tree};

/// All retries, whatever the cause.
fn retries(status: &Status) -> u64 {
    status.retries.values().sum()
}

fn not_empty(content: &Content) -> u64 {
    content.values().filter(|bytes| !bytes.is_empty()).count() as u64
}

#[test]
fn a_storm_of_503s_costs_time_but_no_read_and_then_it_is_over() {
    let mut site = Site::new(tree(4, 25));
    site.set("retry_budget", "20s");
    let node = site.start();
    // Names first, so that the storm meets reads alone.
    assert!(site.mnt().join("train/n0003").read_dir().unwrap().next().is_some());
    site.sim.set_faults(FaultRule::probability(FaultKind::SlowDown, 0.4).for_verb(Verb::Get));
    // As a loader's workers do, each its share.
    std::thread::scope(|scope| {
        let files: Vec<_> = site.content.iter().collect();
        for share in files.chunks(files.len().div_ceil(10)) {
            let (site, share) = (&site, share.to_vec());
            scope.spawn(move || {
                for (key, bytes) in share {
                    assert!(fs::read(site.mnt().join(key)).unwrap() == *bytes, "{key}");
                }
            });
        }
    });
    let storm = site.status(&node.client());
    assert!(20 < storm.retries["503"], "{:?}", storm.retries);
    assert!(storm.requests_limit < 384, "the limit gave way: {}", storm.requests_limit);
    assert_eq!(site.sim.stats().get, not_empty(&site.content) + storm.retries["503"]);

    // When it is over a file costs one request at most, and none is sent again.
    site.sim.set_faults(Faults::none());
    let all = site.content.len() as u64;
    site.until("all on disk", || site.du(&node.client(), "").cached_files == all);
    site.call(node.client().free(&below(""))).unwrap();
    let left = site.du(&node.client(), "").cached_files - (all - not_empty(&site.content));
    assert_eq!(left, 0, "freed");
    site.sim.reset_stats();
    site.read_all();
    let after = site.status(&node.client());
    assert_eq!(retries(&after), retries(&storm));
    // What the kernel still has in its page cache it does not ask for.
    let gets = site.sim.stats().get;
    assert!((50..=not_empty(&site.content)).contains(&gets), "{gets}");
    node.stop().unwrap();
    site.assert_nothing_left();
}

#[test]
fn resets_short_bodies_and_500s_cost_one_success_an_object_and_never_a_wrong_byte() {
    let mut site = Site::new(tree(4, 50));
    let large = "large.bin".to_owned();
    site.content.insert(large.clone(), bytes_of(&large, 1, 18 << 20));
    site.sim.put_object(BUCKET, &large, &site.content[&large]);
    site.sim.reset_stats();
    site.set("retry_budget", "20s");
    let node = site.start();
    let rule = |kind| FaultRule::probability(kind, 0.035).for_verb(Verb::Get);
    site.sim.set_faults(
        Faults::none()
            .and(rule(FaultKind::Reset))
            .and(rule(FaultKind::ShortBody))
            .and(rule(FaultKind::InternalError)),
    );
    site.read_all();
    let status = site.status(&node.client());
    let requests = not_empty(&site.content) - 1 + 18_u64.div_ceil(4);
    assert!(5 < retries(&status), "the faults showed: {:?}", status.retries);
    assert_eq!(site.sim.stats().get, requests + retries(&status), "{:?}", status.retries);
    site.sim.set_faults(Faults::none());
    site.sim.reset_stats();
    site.read_all();
    assert_eq!(site.sim.stats().requests(), 0, "everything was kept");
    node.stop().unwrap();
    site.assert_nothing_left();
}

#[test]
fn with_a_dead_bucket_cached_files_are_read_others_fail_in_time_and_read_when_it_is_back() {
    let mut site = Site::new(tree(2, 20));
    site.set("retry_budget", "5s").set("request_timeout", "5s");
    let node = site.start();
    let files: Vec<_> = site.content.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    let (cached, cold) = files.split_at(files.len() / 2);
    let read = |key: &str| fs::read(site.mnt().join(key));
    for (key, bytes) in cached {
        assert!(read(key).unwrap() == **bytes, "{key}");
    }
    // Its names are known before the bucket goes.
    assert!(site.mnt().join(cold[0].0).exists());
    site.sim.set_faults(FaultRule::every(FaultKind::InternalError));
    for (key, bytes) in cached {
        assert!(read(key).unwrap() == **bytes, "{key}");
    }
    let error = read(cold[0].0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc_eio()), "{error}");
    site.sim.set_faults(Faults::none());
    for (key, bytes) in &files {
        assert!(read(key).unwrap() == **bytes, "{key}");
    }
    node.stop().unwrap();
}

fn libc_eio() -> i32 {
    rustix::io::Errno::IO.raw_os_error()
}

/// An ext4 of a few MiB on a loop device.
struct SmallDisk {
    mountpoint: PathBuf,
}

impl SmallDisk {
    fn new(root: &Path, mib: u64) -> Self {
        let (image, mountpoint) = (root.join("image"), root.join("small"));
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        let run = |command: &mut Command| {
            let output = command.output().expect("mkfs.ext4 and mount must be installed");
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?} failed (this test needs root): {text}");
        };
        run(Command::new("mkfs.ext4").args(["-q", "-m0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mountpoint));
        Self { mountpoint }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
    }
}

#[test]
fn a_full_cache_disk_fails_no_read() {
    let mut content = Content::new();
    for index in 0..60 {
        let key = format!("set/{index:03}.bin");
        content.insert(key.clone(), bytes_of(&key, 1, 1 << 20));
    }
    content.insert("large.bin".into(), bytes_of("large.bin", 1, 24 << 20));
    let mut site = Site::new(content);
    let disk = SmallDisk::new(&site.path(""), 40);
    // The quota promises more than the disk has.
    let cache = format!("{}:1GiB", disk.mountpoint.join("cache").display());
    site.set("cache", &cache);
    let node = site.start();
    for _ in 0..2 {
        site.read_all();
    }
    // Once nothing is being written: what is counts as used, though it may find no space.
    site.until("no more is used than the disk has", || {
        site.status(&node.client()).cache[0].used_bytes < 40 << 20
    });
    node.stop().unwrap();
    site.assert_nothing_left();
}

#[test]
fn an_object_replaced_under_a_reader_stays_the_old_one_or_is_stale_but_never_mixed() {
    let key = "set/large.bin";
    let old = bytes_of(key, 1, 48 << 20);
    let site = Site::new(Content::from([(key.to_owned(), old.clone())]));
    let new: Vec<u8> = old.iter().map(|byte| !byte).collect();
    let node = site.start();
    let file = fs::File::open(site.mnt().join(key)).unwrap();
    let mut page = vec![0; 4096];
    file.read_exact_at(&mut page, 0).unwrap();
    assert!(page == old[..4096]);
    site.sim.put_object(BUCKET, key, new);
    let mut stale = 0;
    for offset in (0..old.len()).step_by(1 << 20) {
        match file.read_exact_at(&mut page, offset as u64) {
            Ok(()) => assert!(page == old[offset..offset + 4096], "mixed at {offset}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::STALE.raw_os_error()));
                stale += 1;
            }
        }
    }
    assert!(0 < stale, "all of it was fetched before it was replaced: this showed nothing");
    drop(file);
    node.stop().unwrap();
}

#[test]
fn a_stalled_bucket_does_not_keep_statfs_or_known_names_waiting() {
    let site = Site::new(tree(1, 5));
    let node = site.start();
    site.read_all();
    site.sim.set_faults(FaultRule::every(FaultKind::InternalError));
    site.sim.reset_stats();
    let sizes = || -> io::Result<_> { Ok(rustix::fs::statvfs(site.mnt())?) };
    let sizes = sizes().unwrap();
    assert_eq!((sizes.f_bfree, sizes.f_bavail), (sizes.f_blocks, sizes.f_blocks), "nothing used");
    assert_eq!(sizes.f_blocks * sizes.f_frsize, 1 << 50);
    // No inodes are counted: `df -i` shows `-` instead of 100 %.
    assert_eq!((sizes.f_files, sizes.f_ffree), (0, 0));
    let df = Command::new("df").arg("-h").arg(site.mnt()).output().unwrap();
    let text = String::from_utf8_lossy(&df.stdout).into_owned();
    assert!(df.status.success() && text.contains("1.0P") && text.contains("0%"), "{text}");
    assert_eq!(fs::read_dir(site.mnt().join("train/n0000")).unwrap().count(), 5);
    assert_eq!(site.sim.stats().requests(), 0);
    node.stop().unwrap();
}
