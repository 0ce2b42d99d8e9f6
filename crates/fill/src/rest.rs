//! What a data set waits for, in the words that people see.

/// Why nothing is fetched for a set now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// There is something to do.
    No,
    /// Every file was looked at.
    Complete,
    /// Ahead of the reads by as much as is allowed.
    Ahead,
    /// No free space is left in the cache, and nothing in it has been read that could make room.
    Full,
    /// Nobody reads it any more.
    Idle,
    /// Switched off.
    Off,
}

impl Rest {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::No => "filling",
            Self::Complete => "complete",
            Self::Ahead => "waiting for reads",
            Self::Full => "cache full",
            Self::Idle => "idle",
            Self::Off => "off",
        }
    }
}
