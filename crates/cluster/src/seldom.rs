//! Lines of the log that anybody who reaches the port may cause: of each address one in a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

/// How often one address is spoken of: a node that is set up wrongly tries for as long as it runs.
const EVERY: Duration = Duration::from_secs(60);

/// Addresses spoken of within that time at most, and so lines: more than a cluster has nodes that are set up wrongly.
const ADDRESSES_MAX: usize = 256;

/// When each address was spoken of last.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Mutex<HashMap<IpAddr, Duration>>,
}

impl Seldom {
    /// True if `address` is to be spoken of now; it has been, then.
    pub(crate) fn is_due(&self, address: IpAddr, now: Duration) -> bool {
        let mut last = self.last.lock();
        let is_recent = |at: &Duration| now < *at + EVERY;
        if last.get(&address).is_some_and(is_recent) {
            return false;
        }
        if ADDRESSES_MAX <= last.len() {
            last.retain(|_, at| is_recent(at));
        }
        let has_room = last.len() < ADDRESSES_MAX;
        if has_room {
            last.insert(address, now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        IpAddr::from([10, 0, u8::try_from(number / 256).unwrap(), (number % 256) as u8])
    }

    #[test]
    fn each_address_is_spoken_of_once_in_a_while() {
        let (seldom, s) = (Seldom::default(), Duration::from_secs);
        assert!(seldom.is_due(address(1), s(0)));
        assert!(!seldom.is_due(address(1), s(0)));
        assert!(seldom.is_due(address(2), s(1)));
        assert!(!seldom.is_due(address(1), s(59)));
        assert!(seldom.is_due(address(1), s(60)));
        assert!(!seldom.is_due(address(1), s(119)));
    }

    #[test]
    fn there_is_a_limit_to_all_of_them() {
        let (seldom, s) = (Seldom::default(), Duration::from_secs);
        let spoken = |now| (0..1_000).filter(|n| seldom.is_due(address(*n), now)).count();
        assert_eq!([spoken(s(0)), spoken(s(59)), spoken(s(60))], [256, 0, 256]);
        assert_eq!(seldom.last.lock().len(), ADDRESSES_MAX);
    }
}
