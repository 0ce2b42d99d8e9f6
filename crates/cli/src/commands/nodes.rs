//! What commands over all nodes of a cluster have in common: the flag for one node, nodes that did not
//! answer, and the table of nodes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use feedline_node::api::{NodeSummary, Unheard};

use crate::failure::Failure;
use crate::output::{self, Table};

/// Whom to ask.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Whose {
    /// Of a cluster, this node alone.
    #[arg(long)]
    pub(crate) node_only: bool,
}

/// Names each node that did not answer, and what that means; and who has named no nodes at all.
///
/// # Errors
///
/// If `out` is closed.
pub(crate) fn write_unheard(
    out: &mut impl Write,
    unheard: &[Unheard],
    meaning: &str,
) -> io::Result<()> {
    unheard.iter().try_for_each(|it| {
        if it.source {
            writeln!(out, "{}", silent(it))
        } else {
            writeln!(out, "{}; {meaning}", silent(it))
        }
    })
}

/// The error that names each node that did not answer.
///
/// # Errors
///
/// If there is one.
pub(crate) fn fail_if_unheard(unheard: &[Unheard], meaning: &str) -> Result<(), Failure> {
    if unheard.is_empty() {
        return Ok(());
    }
    let mut all: Vec<_> = unheard.iter().map(silent).collect();
    if unheard.iter().any(|it| !it.source) {
        all.push(meaning.to_owned());
    }
    Err(Failure::failed(all.join("; "))
        .way_out("the other nodes are done; say it again when all are back (`feedline status`)"))
}

fn silent(node: &Unheard) -> String {
    if node.source {
        return format!("{} {}", node.address, node.why);
    }
    let id = node.node.as_deref().map_or_else(String::new, |id| format!("{} at ", short(id)));
    let did = if node.refused { "did not do it" } else { "did not answer" };
    format!("node {id}{} {did}: {}", node.address, node.why)
}

/// Of an id so much that it names one of any number of nodes that somebody has.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Nodes that mount the same and are named one by one: more are a number.
const NAMED_MAX: usize = 3;

/// What the table cannot say, because nobody knows.
pub(crate) const UNSEEN: &str = "hit rates are those of the SSDs: what the kernel answers from its page cache (all reads of files that it was \
     handed, with passthrough) is seen by nobody";

/// Everything to the cluster's table of nodes, with a last line for all.
pub(crate) fn node_table(nodes: &[NodeSummary]) -> Table {
    let mut table = Table::new(&[
        "node",
        "id",
        "version",
        "state",
        ">used",
        ">quota",
        ">SSD hits",
        ">from peers",
        ">from bucket",
        ">requests",
        ">served",
        ">saved",
        ">jobs",
    ]);
    for node in nodes {
        let name = format!("{}{}", node.address, if node.this { " (this)" } else { "" });
        let silent = node.version.is_empty();
        let known = |value: String| if silent { "?".to_owned() } else { value };
        table.row([
            name,
            short(&node.node).to_owned(),
            known(node.version.clone()),
            node.state.clone(),
            known(output::bytes(node.used_bytes)),
            output::bytes(node.quota_bytes),
            known(output::percent(node.hits, node.hits + node.misses)),
            known(output::bytes(node.bytes_from_peers)),
            known(output::bytes(node.store_bytes)),
            known(output::count(node.requests.values().sum())),
            known(output::bytes(node.bytes_to_peers)),
            known(output::count(node.requests_saved)),
            known(output::count(node.loads.len() as u64)),
        ]);
    }
    table.row(total(nodes));
    table
}

fn total(nodes: &[NodeSummary]) -> [String; 13] {
    let sum = |of: fn(&NodeSummary) -> u64| nodes.iter().map(of).sum::<u64>();
    let up = nodes.iter().filter(|node| !node.version.is_empty()).count();
    let (hits, misses) = (sum(|node| node.hits), sum(|node| node.misses));
    [
        "total".into(),
        String::new(),
        String::new(),
        format!("{up} of {}", nodes.len()),
        output::bytes(sum(|node| node.used_bytes)),
        output::bytes(sum(|node| node.quota_bytes)),
        output::percent(hits, hits + misses),
        output::bytes(sum(|node| node.bytes_from_peers)),
        output::bytes(sum(|node| node.store_bytes)),
        output::count(sum(|node| node.requests.values().sum())),
        output::bytes(sum(|node| node.bytes_to_peers)),
        output::count(sum(|node| node.requests_saved)),
        output::count(sum(|node| node.loads.len() as u64)),
    ]
}

/// The table, and beneath it what is not well.
///
/// # Errors
///
/// If `out` is closed.
pub(crate) fn write_nodes(out: &mut impl Write, nodes: &[NodeSummary]) -> io::Result<()> {
    node_table(nodes).write(out, "  ")?;
    for line in mounts(nodes) {
        writeln!(out, "  {line}")?;
    }
    for trouble in troubles(nodes) {
        writeln!(out, "  {trouble}")?;
    }
    writeln!(out, "  {UNSEEN}")
}

/// What is mounted where, a line for each that differs: on most clusters one.
fn mounts(nodes: &[NodeSummary]) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| !node.mountpoint.is_empty()) {
        let place = format!("{} at {}", node.sources.join(", "), node.mountpoint);
        places.entry(place).or_default().push(&node.address);
    }
    let line = |(place, on): (String, Vec<&str>)| match on.len() {
        count if count == nodes.len() => format!("all mount {place}"),
        count if count <= NAMED_MAX => format!("{} mount {place}", on.join(", ")),
        count => format!("{} nodes mount {place}", output::count(count as u64)),
    };
    places.into_iter().map(line).collect()
}

/// What is not well, a line each: nodes that say nothing or are slow, and peers that others pass by.
pub(crate) fn troubles(nodes: &[NodeSummary]) -> Vec<String> {
    let mut lines = Vec::new();
    for node in nodes {
        if let Some(trouble) = &node.trouble {
            let said = if node.version.is_empty() { "did not answer" } else { "is slow" };
            lines.push(format!("node {} {said}: {trouble}", node.address));
        }
        // Of this node its table of peers tells more.
        for peer in node.peers_in_trouble.iter().filter(|_| !node.this) {
            lines.push(format!("node {} passes by {peer}", node.address));
        }
    }
    let mut views: Vec<_> = nodes.iter().map(|node| node.fingerprint.as_str()).collect();
    views.retain(|view| !view.is_empty());
    views.sort_unstable();
    views.dedup();
    if 1 < views.len() {
        lines.push(
            "nodes know different members: some objects are fetched twice until they agree".into(),
        );
    }
    lines
}
