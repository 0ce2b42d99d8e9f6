//! Reading back what is here and comparing it with its checksum: on demand, and slowly always.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use feedline_model::ObjectId;
use feedline_model::page::page_range;

use crate::cache::{Cache, Shared};
use crate::directory::{object_path, partial_path};
use crate::index::{Record, State};

/// How long the scrub rests when there is nothing to read.
const IDLE: Duration = Duration::from_secs(60);

/// What a file counts for in the pace of the scrub at least: opening a tiny one costs as much.
const FILE_BYTES: u64 = 64 << 10;

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckProgress {
    /// Objects read back.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Objects dropped because they were not as recorded.
    pub corrupt: u64,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// Totals.
    pub progress: CheckProgress,
    /// Objects dropped; their next read fetches them again.
    pub corrupt: Vec<ObjectId>,
}

/// What became of one object.
enum Checked {
    Absent,
    Sound(u64),
    Corrupt(u64),
}

/// Dropped with a check: the thread that reads for it, which nobody can end, sees that nobody waits any more.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Cache {
    /// Reads back those of the objects that are here and compares them with their checksums; what
    /// does not match is dropped. `progress` is called after each object. Dropping it ends the reading.
    pub async fn check(
        &self,
        ids: Vec<ObjectId>,
        mut progress: impl FnMut(&CheckProgress) + Send,
    ) -> CheckReport {
        let mut report = CheckReport::default();
        let is_wanted = Arc::new(AtomicBool::new(true));
        let _waiting = Waiting(Arc::clone(&is_wanted));
        for id in ids {
            let (shared, is_wanted) = (self.shared.clone(), Arc::clone(&is_wanted));
            let check = move || shared.check_one(&id, &|| is_wanted.load(Ordering::Relaxed));
            let checked = self.shared.handle.spawn_blocking(check).await;
            let bytes = match checked.unwrap_or(Checked::Absent) {
                Checked::Absent => continue,
                Checked::Sound(bytes) => bytes,
                Checked::Corrupt(bytes) => {
                    report.progress.corrupt += 1;
                    report.corrupt.push(id);
                    bytes
                }
            };
            report.progress.files += 1;
            report.progress.bytes += bytes;
            progress(&report.progress);
        }
        report
    }
}

impl Shared {
    /// Nothing comes of it if it is not wanted any more; that is asked before each piece.
    fn check_one(&self, id: &ObjectId, is_wanted: &dyn Fn() -> bool) -> Checked {
        let Some(record) = self.usable_record(id) else { return Checked::Absent };
        let checked = match record.state() {
            State::Complete => self.check_complete(id, &record, is_wanted),
            State::Partial => return self.check_partial(id, &record, is_wanted),
            State::Free | State::Wished => return Checked::Absent,
        };
        match checked {
            Ok(true) => {
                self.mark_verified(id, &record);
                Checked::Sound(record.size())
            }
            Ok(false) => {
                self.drop_corrupt(id, &record);
                Checked::Corrupt(record.size())
            }
            Err(_) if !is_wanted() => Checked::Absent,
            Err(error) => {
                // Evicted between the look and the open is no corruption.
                if self.usable_record(id).is_none() {
                    return Checked::Absent;
                }
                self.read_failed(id, &record, &error);
                Checked::Corrupt(record.size())
            }
        }
    }

    fn check_complete(
        &self,
        id: &ObjectId,
        record: &Record,
        is_wanted: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        let dir = self.dir(record.dir);
        let file = dir.disk.open(&object_path(id), false)?;
        Ok(dir.disk.extent(&file)?.size == record.size()
            && self.is_sound_while(dir, &file, record, is_wanted)?)
    }

    /// Pages that do not match count as missing again.
    fn check_partial(
        &self,
        id: &ObjectId,
        record: &Record,
        is_wanted: &dyn Fn() -> bool,
    ) -> Checked {
        let Some(partial) = self.partials.lock().get(id).cloned() else { return Checked::Absent };
        let dir = self.dir(record.dir);
        let Ok(file) = dir.disk.open(&partial_path(id), false) else { return Checked::Absent };
        let (mut bytes, mut bad, mut whole) = (0, 0_u64, None);
        for (page, crc) in partial.pages() {
            if !is_wanted() {
                break;
            }
            // A page that goes meanwhile is nobody's.
            let Some(looked) = partial.present(u64::from(page)) else { continue };
            let range = page_range(u64::from(page), partial.size);
            let length = usize::try_from(range.end - range.start).expect("a page");
            let mut buffer = vec![0; length];
            bytes += length as u64;
            let read = dir.disk.read_at(&file, &mut buffer, range.start);
            if read.is_ok() && crc32c::crc32c(&buffer) == crc {
                whole = partial.verified(u64::from(page)).or(whole);
            } else {
                bad += u64::from(partial.lose(u64::from(page), looked));
            }
        }
        dir.set_stale();
        dir.corrupt.add(bad);
        if let Some(crc) = whole.filter(|_| bad == 0) {
            self.complete_verified(dir, *id, &partial, crc, &file);
        }
        if bad > 0 { Checked::Corrupt(bytes) } else { Checked::Sound(bytes) }
    }

    /// The scrub: one object after another, at the rate set; ends with the cache.
    pub(crate) fn start_scrub(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let mut stop = self.stop.subscribe();
        let (clock, handle) = (self.clock.clone(), self.handle.clone());
        let rate = self.scrub_bytes_per_s;
        let task = async move {
            let mut slot = 0;
            let mut pause = IDLE;
            loop {
                tokio::select! {
                    () = clock.sleep(pause) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
                let weak = weak.clone();
                let step = move || weak.upgrade().map(|shared| shared.scrub_step(slot));
                let Ok(Some((next, bytes))) = handle.spawn_blocking(step).await else { return };
                slot = next;
                #[expect(clippy::cast_precision_loss, reason = "a pace, not a count")]
                let seconds = bytes as f64 / rate as f64;
                pause = if next == 0 { IDLE } else { Duration::from_secs_f64(seconds) };
            }
        };
        self.tasks.spawn_on(task, &self.handle);
    }

    /// Checks the next object from `slot` on. Returns the slot after it (0: all seen) and the bytes that
    /// it counts for.
    fn scrub_step(&self, from: usize) -> (usize, u64) {
        let found = {
            let index = self.index.lock();
            (from..index.slots()).find_map(|slot| {
                let record = index.at(slot)?;
                (record.state() == State::Complete).then_some((slot, record.id))
            })
        };
        let Some((slot, id)) = found else { return (0, 0) };
        match self.check_one(&id, &|| true) {
            Checked::Absent => (slot + 1, 0),
            Checked::Sound(bytes) | Checked::Corrupt(bytes) => (slot + 1, bytes.max(FILE_BYTES)),
        }
    }
}
