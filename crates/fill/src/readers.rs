//! Who reads a data set, and who has ended.

use std::collections::HashMap;
use std::time::Duration;

/// Readers of one set at most; a job has a few dozen a node.
const READERS_MAX: usize = 4_096;

/// How long a set without living readers is still filled: a job that starts anew, or a reader that
/// cannot be named.
pub(crate) const IDLE: Duration = Duration::from_secs(10);

/// Between two looks at which readers have ended, where new ones come: a process for each file is many.
const ASK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
struct Reader {
    last: Duration,
    was_alive: bool,
}

/// The readers of one set, by process; 0 cannot be named.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    known: HashMap<u32, Reader>,
    /// One came that is new: others may have ended.
    has_newcomer: bool,
    /// When it was last asked which have, for that reason.
    asked: Option<Duration>,
}

impl Readers {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn has(&self, process: u32) -> bool {
        self.known.contains_key(&process)
    }

    /// Those of another set, too.
    pub(crate) fn take_over(&mut self, other: &Self) {
        self.known.extend(other.known.iter().map(|(process, reader)| (*process, *reader)));
    }

    /// A process reads.
    pub(crate) fn note(&mut self, process: u32, now: Duration) {
        if let Some(reader) = self.known.get_mut(&process) {
            reader.last = now;
        } else if self.known.len() < READERS_MAX {
            self.known.insert(process, Reader { last: now, was_alive: false });
            self.has_newcomer = true;
        }
    }

    /// True once after a reader came that was not there before, and not too often.
    pub(crate) fn take_newcomer(&mut self, now: Duration) -> bool {
        let is_early = self.asked.is_some_and(|asked| now < asked + ASK_AGAIN);
        if !self.has_newcomer || is_early {
            return false;
        }
        (self.has_newcomer, self.asked) = (false, Some(now));
        true
    }

    /// Forgets those that have ended a while ago. `ended` hears of each at once, unless nobody has ever seen
    /// it alive: it may be one that this daemon cannot see.
    pub(crate) fn look_after(
        &mut self,
        now: Duration,
        is_alive: impl Fn(u32) -> bool,
        mut ended: impl FnMut(u32),
    ) {
        self.known.retain(|process, reader| {
            let is_alive = *process != 0 && is_alive(*process);
            let has_ended = std::mem::replace(&mut reader.was_alive, is_alive) && !is_alive;
            let stays = is_alive || now.saturating_sub(reader.last) < IDLE;
            if has_ended || !stays {
                ended(*process);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_ends_is_told_at_once_if_it_was_seen_alive_and_after_a_while_if_not() {
        let mut readers = Readers::default();
        readers.note(7, MS);
        readers.note(8, MS);
        let look = |readers: &mut Readers, now: Duration, alive: &[u32]| {
            let mut ended = Vec::new();
            readers.look_after(now, |process| alive.contains(&process), |it| ended.push(it));
            ended
        };
        assert_eq!(look(&mut readers, 2 * MS, &[7]), []);
        assert_eq!(look(&mut readers, 3 * MS, &[]), [7], "8 was never seen");
        assert_eq!((look(&mut readers, 4 * MS, &[]), readers.len()), (vec![], 2));
        let mut ended = look(&mut readers, MS + IDLE, &[]);
        ended.sort_unstable();
        assert_eq!((ended, readers.len()), (vec![7, 8], 0));
    }

    #[test]
    fn newcomers_are_a_reason_to_ask_but_not_each_of_many() {
        let mut readers = Readers::default();
        assert!(!readers.take_newcomer(MS));
        readers.note(1, MS);
        assert!(readers.take_newcomer(MS) && !readers.take_newcomer(MS));
        readers.note(2, 2 * MS);
        assert!(!readers.take_newcomer(2 * MS));
        assert!(readers.take_newcomer(MS + ASK_AGAIN), "not forgotten");
        (0..2 * READERS_MAX as u32).for_each(|process| readers.note(process, MS));
        assert_eq!(readers.len(), READERS_MAX);
    }
}
