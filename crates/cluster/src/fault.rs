//! Why a peer did not give what it was asked for, sorted by what to do about it.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::net::Untrusted;
use crate::wire::{FaultKind, Garbage, ItemFault};

/// How long a peer is passed by at least after it could not be reached: a restart takes about as long.
const HOLD_DOWN: Duration = Duration::from_millis(500);

/// The same after it was slow: what makes a node slow, a bad disk or memory that is swapped, takes longer than a pause.
const HOLD_SLOW: Duration = Duration::from_secs(2);

/// The same after it said something wrong: that does not pass by itself, and others do as well.
const HOLD_WRONG: Duration = Duration::from_secs(30);

/// What was the matter. The labels are those of status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It was not even asked: passed by since an earlier trouble.
    Down,
    /// No connection, or it broke.
    Unreachable,
    /// Connected, and it said nothing for too long.
    Silent,
    /// It said something, or might have, but too late: another one was quicker.
    Slow,
    /// What it said is no answer: wrong checksum, wrong length, garbage.
    Wrong,
    /// It speaks another version of the protocol.
    Version,
    /// It does not let us in, or we do not trust it.
    Refused,
    /// It serves as much as it may, or we ask it for as much as we may.
    Full,
    /// It waits for the same object from another node.
    Busy,
    /// It does not mount the bucket.
    NotMounted,
    /// It does not have the object, and was asked for no more.
    NotCached,
    /// The bucket did not give it the object.
    Bucket,
}

impl Reason {
    /// All, in the order of the labels in status.
    pub const ALL: [Self; 12] = [
        Self::Down,
        Self::Unreachable,
        Self::Silent,
        Self::Slow,
        Self::Wrong,
        Self::Version,
        Self::Refused,
        Self::Full,
        Self::Busy,
        Self::NotMounted,
        Self::NotCached,
        Self::Bucket,
    ];

    /// As in status and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Wrong => "wrong",
            Self::Version => "version",
            Self::Refused => "refused",
            Self::Full => "full",
            Self::Busy => "busy",
            Self::NotMounted => "not_mounted",
            Self::NotCached => "not_cached",
            Self::Bucket => "bucket",
        }
    }

    /// True if it does not pass by itself: somebody has to look after it.
    pub(crate) fn is_lasting(self) -> bool {
        matches!(self, Self::Wrong | Self::Version | Self::Refused)
    }

    /// How long the peer is passed by from now on, at least; `None`: nothing is wrong with it.
    pub(crate) fn hold(self) -> Option<Duration> {
        match self {
            Self::Unreachable | Self::Silent => Some(HOLD_DOWN),
            Self::Slow => Some(HOLD_SLOW),
            Self::Wrong | Self::Version | Self::Refused => Some(HOLD_WRONG),
            Self::Down
            | Self::Full
            | Self::Busy
            | Self::NotMounted
            | Self::NotCached
            | Self::Bucket => None,
        }
    }
}

/// A peer did not give what it was asked for. Never a read error: somebody else is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What was the matter.
    pub reason: Reason,
    /// In words, for the log and for status.
    pub message: String,
}

impl Fault {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    pub(crate) fn unreachable(error: &dyn std::error::Error) -> Self {
        // hyper's own text says where, the source says why.
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        Self::new(Reason::Unreachable, message)
    }

    /// A connection broke in the middle of an answer, or what came is none.
    pub(crate) fn broken(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::new(Reason::Wrong, error.to_string()),
            _ => Self::unreachable(error),
        }
    }

    /// Somebody is there and is not trusted, or nobody is.
    pub(crate) fn no_connection(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Untrusted>()) {
            Some(untrusted) => Self::new(Reason::Refused, untrusted.to_string()),
            None => Self::unreachable(error),
        }
    }

    /// What a frame of [`crate::wire::FrameKind::Fault`] says.
    ///
    /// # Errors
    ///
    /// That it says nothing that makes sense.
    pub(crate) fn of_frame(payload: &[u8]) -> Result<Self, Self> {
        let said: ItemFault = serde_json::from_slice(payload)
            .map_err(|error| Self::new(Reason::Wrong, error.to_string()))?;
        Ok(Self::of_item(said.kind, said.message))
    }

    pub(crate) fn of_item(kind: FaultKind, message: String) -> Self {
        let reason = match kind {
            FaultKind::NotCached => Reason::NotCached,
            FaultKind::Busy => Reason::Busy,
            FaultKind::NotMounted => Reason::NotMounted,
            FaultKind::Full => Reason::Full,
            // A newer node's reason is no trouble of ours with it: the bucket decides.
            FaultKind::Bucket | FaultKind::Other => Reason::Bucket,
            FaultKind::Refused => Reason::Wrong,
        };
        Self::new(reason, message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.label(), self.message)
    }
}

impl From<Garbage> for Fault {
    fn from(garbage: Garbage) -> Self {
        Self::new(Reason::Wrong, garbage.0)
    }
}
