//! The table of the cluster: what is promised, against whom, how much. Rows that are measured together
//! form a group.

use super::epochs::Shards;
use crate::targets::Target::{self, AtLeast, AtMost};

/// What is measured together, in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// Three epochs of a job.
    Epochs(Shards),
    /// `feedline load` against a bare HTTP client.
    Load,
    /// One node reads what another has.
    Peer,
    /// A node dies in mid-epoch.
    Killed,
    /// The data set is three times as large as one node's quota.
    Quota,
    /// The memory of a load, of a few files and of very many.
    Memory,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    /// What `--only` matches, and the JSON carries.
    pub(super) name: &'static str,
    /// What the figure is a multiple of, or its unit.
    pub(super) unit: &'static str,
    pub(super) target: Target,
    pub(super) group: Group,
}

/// More GETs than objects: for requests that were sent twice because a node was silent for seconds.
const GETS_MOST: Target = AtMost(1.001);

/// What a load of fifty times as many files may take more: their names are kept, as by any walk.
const MEMORY_FLAT: Target = AtMost(1.25);

/// The whole table, in its order; rows of one group are neighbours.
pub(super) const ROWS: [Row; 10] = {
    const fn row(name: &'static str, unit: &'static str, target: Target, group: Group) -> Row {
        Row { name, unit, target, group }
    }
    const FIXED: Group = Group::Epochs(Shards::Fixed);
    const RESHUFFLED: Group = Group::Epochs(Shards::Reshuffled);
    [
        row("fixed-gets", "GET/object", GETS_MOST, FIXED),
        row("fixed-warm-requests", "requests", AtMost(0.0), FIXED),
        row("fixed-warm-peers", "MB", AtMost(0.0), FIXED),
        row("reshuffled-gets", "GET/object", GETS_MOST, RESHUFFLED),
        row("load", "x http", AtLeast(0.8), Group::Load),
        row("peer-read", "x http", AtLeast(0.6), Group::Peer),
        row("killed-reads", "failed", AtMost(0.0), Group::Killed),
        row("killed-gets", "of share", AtMost(1.0), Group::Killed),
        row("quota-hits", "of reads", AtLeast(0.99), Group::Quota),
        row("load-memory", "x of few", MEMORY_FLAT, Group::Memory),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_groups_are_neighbours() {
        let mut names = ROWS.map(|row| row.name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        let mut groups = ROWS.map(|row| format!("{:?}", row.group)).to_vec();
        groups.dedup();
        let runs = groups.len();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(runs, groups.len());
    }
}
