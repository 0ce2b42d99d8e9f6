//! What is pushed, when it stops, and what makes it begin again; without threads or a clock.

use std::collections::HashSet;

use feedline_model::{ETag, SourceId, Version};

use super::*;

const MIB: u64 = 1 << 20;

/// A set of `len` files of `size` bytes, all complete, that is read from the first to the last.
struct Listed {
    len: u32,
    size: u64,
    /// How many were opened; `None`: in an unknown order.
    opened: Option<u32>,
    on_disk: HashSet<u32>,
}

impl Listed {
    fn on_disk(len: u32, size: u64) -> Self {
        Self { len, size, opened: Some(0), on_disk: (0..len).collect() }
    }

    /// What a job finds, and leaves in memory.
    fn run(&mut self, job: Job) -> Done {
        let push = job.push;
        let mut find = |(position, object): (u32, Object)| {
            let found = match (self.on_disk.contains(&position), push) {
                (false, _) => Residence::Memory,
                (true, _) => Residence::Disk(object.version.size),
            };
            if push == Push::Read {
                self.on_disk.remove(&position);
            }
            (position, found)
        };
        Done { push, files: job.files.into_iter().map(&mut find).collect() }
    }

    /// Opens the next files.
    fn open(&mut self, pusher: &mut Pusher, count: u32) {
        for _ in 0..count {
            let position = self.opened.expect("in order");
            pusher.accessed(position);
            self.opened = Some(position + 1);
        }
    }

    /// Runs jobs until there is none; the positions pushed.
    fn push_all(&mut self, pusher: &mut Pusher, now: Duration) -> Vec<u32> {
        let mut pushed = Vec::new();
        for _ in 0..10_000 {
            let Some(job) = pusher.next(now, self) else { return pushed };
            let done = self.run(job);
            if done.push == Push::Read {
                pushed.extend(done.files.iter().map(|it| it.0));
            }
            pusher.done(&done, now);
        }
        panic!("it never ends");
    }

    /// Lets it look until it stays as it is; true if it then wants accesses.
    fn look(&mut self, pusher: &mut Pusher, now: Duration) -> bool {
        if let Some(job) = pusher.look(now, true, self) {
            assert_eq!(job.push, Push::Look);
            pusher.done(&self.run(job), now);
        }
        pusher.wants_accesses()
    }
}

impl Files for Listed {
    fn next_opens(&self, count: usize) -> Vec<u32> {
        let Some(opened) = self.opened else { return Vec::new() };
        (opened..self.len).take(count).collect()
    }

    fn complete(&self, position: u32) -> Option<Object> {
        let version = Version { size: self.size, modified_ms: 1, etag: ETag::Absent };
        Some(Object { source: SourceId(1), key: position.to_string().into(), version })
    }

    fn len(&self) -> u32 {
        self.len
    }
}

const START: Duration = Duration::from_secs(100);

#[test]
fn the_next_files_are_pushed_in_order_and_no_more_than_may_be_ahead() {
    let mut files = Listed::on_disk(10_000, 1_000);
    let mut pusher = Pusher::new(64 * MIB);
    let ahead = FILES_AHEAD as u32;
    assert_eq!(files.push_all(&mut pusher, START), (0..ahead).collect::<Vec<_>>());
    files.open(&mut pusher, 100);
    assert_eq!(files.push_all(&mut pusher, START), (ahead..ahead + 100).collect::<Vec<_>>());
    // Files of 10 MB: as many as fit, and of any size one.
    for (size, count) in [(10 * MIB, 6), (100 * MIB, 1)] {
        let mut files = Listed::on_disk(1_000, size);
        let mut pusher = Pusher::new(64 * MIB);
        assert_eq!(files.push_all(&mut pusher, START).len(), count, "{size}");
        files.open(&mut pusher, STEP);
        assert_eq!(files.push_all(&mut pusher, START).len(), count.min(STEP as usize), "{size}");
    }
}

#[test]
fn without_an_order_or_switched_off_nothing_is_pushed() {
    let mut unknown = Listed { opened: None, ..Listed::on_disk(10_000, 1_000) };
    let mut pusher = Pusher::new(64 * MIB);
    assert_eq!(unknown.push_all(&mut pusher, START), []);
    assert!(unknown.look(&mut pusher, START), "files are on the disk: an order may be found");
    assert_eq!(unknown.push_all(&mut pusher, START), []);
    let mut files = Listed::on_disk(10_000, 1_000);
    let mut off = Pusher::new(0);
    assert_eq!(files.push_all(&mut off, START), []);
    assert!(!files.look(&mut off, START));
}

#[test]
fn it_sleeps_while_all_is_in_memory_and_wakes_when_files_are_on_the_disk() {
    let mut files = Listed { on_disk: HashSet::new(), ..Listed::on_disk(10_000, 1_000) };
    let mut pusher = Pusher::new(64 * MIB);
    let looked_at = files.push_all(&mut pusher, START).len();
    assert!(looked_at <= HOT_RUN as usize + JOB_FILES, "{looked_at}");
    assert!(!pusher.wants_accesses());
    files.open(&mut pusher, 1_000);
    assert_eq!(files.push_all(&mut pusher, START), []);
    // The pages go; it is found out at the next look, not before.
    files.on_disk = (0..10_000).collect();
    assert!(!files.look(&mut pusher, START));
    let later = START + SLEEP;
    assert!(pusher.look(later, false, &files).is_none(), "nobody reads");
    assert!(files.look(&mut pusher, later));
    assert_eq!(files.push_all(&mut pusher, later)[..3], [1_000, 1_001, 1_002]);
}

#[test]
fn files_on_the_disk_that_nobody_reads_do_not_keep_it_awake() {
    // The second half is another node's.
    let mut files = Listed { on_disk: (5_000..10_000).collect(), ..Listed::on_disk(10_000, 1_000) };
    let mut pusher = Pusher::new(64 * MIB);
    let (mut now, mut looked_at) = (START, 0);
    while pusher.wants_accesses() {
        looked_at += files.push_all(&mut pusher, now).len();
        files.open(&mut pusher, 50);
        now += PAUSE_MAX;
        assert!(now < START + Duration::from_secs(10), "still awake");
    }
    assert!(looked_at < 600, "{looked_at}");
    assert!(!files.look(&mut pusher, now + SLEEP), "not so soon");
    assert!(files.look(&mut pusher, now + FRUITLESS_MIN));
}
