//! The priority of a read that somebody may join while it is under way.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};

use crate::source::Priority;

/// How urgent a shared read is by now: as urgent as the most urgent of those that wait for it. It only rises.
#[derive(Debug)]
pub struct Urgency {
    is_demand: AtomicBool,
    /// Those that want to hear when it rises.
    wakers: Mutex<Vec<Waker>>,
}

impl Urgency {
    /// As of who begins the read.
    #[must_use]
    pub fn new(priority: Priority) -> Self {
        let is_demand = AtomicBool::new(priority == Priority::Demand);
        Self { is_demand, wakers: Mutex::default() }
    }

    /// The highest so far.
    #[must_use]
    pub fn priority(&self) -> Priority {
        if self.is_demand.load(Ordering::Acquire) { Priority::Demand } else { Priority::Fill }
    }

    /// Somebody else waits for the read as well.
    pub fn raise(&self, priority: Priority) {
        if priority != Priority::Demand || self.is_demand.load(Ordering::Acquire) {
            return;
        }
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_demand.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *wakers);
        drop(wakers);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Completes when a process waits for the read, at once if one does.
    pub async fn until_demand(&self) {
        poll_fn(|context| {
            // Under the lock, so that who raises it afterwards finds the waker.
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            if self.is_demand.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_rises_to_demand_and_wakes_each_who_waits_once() {
        let urgency = Urgency::new(Priority::Fill);
        let all = [Arc::new(Woken::default()), Arc::new(Woken::default())];
        let mut waits: Vec<_> = all.iter().map(|_| Box::pin(urgency.until_demand())).collect();
        for _ in 0..3 {
            for (woken, wait) in all.iter().zip(&mut waits) {
                let waker = Arc::clone(woken).into();
                assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
        }
        urgency.raise(Priority::Fill);
        assert_eq!(urgency.priority(), Priority::Fill);
        urgency.raise(Priority::Demand);
        urgency.raise(Priority::Demand);
        urgency.raise(Priority::Fill);
        assert_eq!(urgency.priority(), Priority::Demand);
        for woken in &all {
            assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        }
        let context = &mut Context::from_waker(Waker::noop());
        assert!(waits.iter_mut().all(|wait| wait.as_mut().poll(context).is_ready()));
        assert!(pin!(urgency.until_demand()).poll(context).is_ready());
        let from_the_start = Urgency::new(Priority::Demand);
        assert!(pin!(from_the_start.until_demand()).poll(context).is_ready());
    }
}
