//! `feedline status`: every daemon of this user, or the one that serves a path.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use feedline_node::api::{
    CacheDirStatus, ClusterStatus, DataSetStatus, FillStatus, LoadStatus, MembersFrom,
    NamespaceStatus, PeerStatus, Status,
};

use super::nodes::{self, Whose};
use crate::daemon::Daemon;
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};
use crate::settings::RunDir;

/// Whose status.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  feedline status
  feedline status --json /mnt/data | jq .reads

In a cluster a line for each node and one for all, as far as they answer within a few seconds; --node-only asks
nobody else. Hit rates are those of the SSDs: reads that the kernel answers from its page cache are not seen.

Without PATH the JSON is a list with one value per daemon; with PATH it is that one value.
The exit code is 3 when a daemon does not answer.")]
pub(crate) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    run_dir: RunDir,
    /// A path in a mounted folder; without it, every daemon.
    path: Option<String>,
}

/// Asks and prints.
pub(crate) fn run(args: &Args) -> Outcome {
    if let Some(path) = &args.path {
        let answer = ask(&Daemon::find(&args.run_dir, path)?.0, args.whose)?;
        if args.json {
            output::json(&answer.status)?;
            answer.complain()?;
        } else {
            let mut out = output::stdout();
            write_status(&mut out, &answer, true)?;
            out.flush()?;
        }
        return Ok(0);
    }
    let (mut answers, mut silent) = (Vec::new(), Vec::new());
    for daemon in Daemon::all(&args.run_dir.path()?)? {
        match ask(&daemon, args.whose) {
            Ok(answer) => answers.push(answer),
            Err(error) => silent.push((daemon.mountpoint, error)),
        }
    }
    let exit = if silent.is_empty() { 0 } else { Exit::NotFound as u8 };
    if args.json {
        output::json(&answers.iter().map(|answer| &answer.status).collect::<Vec<_>>())?;
        answers.iter().try_for_each(Answer::complain)?;
        return Ok(exit);
    }
    let mut out = output::stdout();
    if answers.is_empty() && silent.is_empty() {
        writeln!(out, "nothing is mounted")?;
    }
    let mut shown = BTreeSet::new();
    for (index, answer) in answers.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        // Nodes of one cluster on one machine say the same of it.
        let is_new = shown.insert(cluster_of(&answer.status));
        write_status(&mut out, answer, is_new)?;
    }
    for (mountpoint, error) in &silent {
        let mountpoint = mountpoint.display();
        writeln!(
            out,
            "{mountpoint}\n  no answer: {error} (`feedline umount {mountpoint}` clears it)"
        )?;
    }
    out.flush()?;
    Ok(exit)
}

/// What a daemon says.
struct Answer {
    status: Status,
    /// Why the other nodes are not in it, in a sentence.
    trouble: Option<String>,
}

impl Answer {
    /// Beside JSON, which has no place for it.
    fn complain(&self) -> io::Result<()> {
        let mountpoint = &self.status.mountpoint;
        self.trouble.iter().try_for_each(|why| writeln!(io::stderr(), "{mountpoint}: {why}"))
    }
}

/// A daemon's status, with what the other nodes say of themselves, if it can tell.
fn ask(daemon: &Daemon, whose: Whose) -> anyhow::Result<Answer> {
    let mut answer = Answer { status: daemon.status()?, trouble: None };
    let version = &answer.status.version;
    let Some(cluster) = answer.status.cluster.as_mut().filter(|_| !whose.node_only) else {
        return Ok(answer);
    };
    match daemon.nodes() {
        Ok(nodes) => cluster.nodes = nodes,
        Err(error) => {
            let own = env!("CARGO_PKG_VERSION");
            let older = if version == own {
                String::new()
            } else {
                format!(" (the daemon is of version {version}, this command of {own}: mount anew)")
            };
            answer.trouble = Some(format!("how the other nodes do is not known: {error}{older}"));
        }
    }
    Ok(answer)
}

/// The ids of the nodes that a daemon knows, itself among them.
fn cluster_of(status: &Status) -> BTreeSet<&str> {
    let nodes = status.cluster.iter().flat_map(|cluster| &cluster.nodes);
    nodes.map(|node| node.node.as_str()).collect()
}

/// The human form: a heading, facts, then one line per cache directory.
fn write_status(out: &mut impl Write, answer: &Answer, with_nodes: bool) -> io::Result<()> {
    let status = &answer.status;
    writeln!(out, "{}", status.mountpoint)?;
    facts(status).write(out, "  ")?;
    if !status.cache.is_empty() {
        writeln!(out)?;
        cache_table(&status.cache).write(out, "  ")?;
    }
    if let Some(cluster) = &status.cluster
        && with_nodes
        && !cluster.nodes.is_empty()
    {
        writeln!(out)?;
        nodes::write_nodes(out, &cluster.nodes)?;
    }
    if let Some(trouble) = &answer.trouble {
        writeln!(out, "\n  {trouble}")?;
    }
    if let Some(cluster) = &status.cluster
        && !cluster.peers.is_empty()
    {
        writeln!(out)?;
        peer_table(&cluster.peers).write(out, "  ")?;
    }
    if !status.fill.data_sets.is_empty() {
        writeln!(out)?;
        data_set_table(&status.fill.data_sets).write(out, "  ")?;
    }
    for example in &status.namespace.hidden_examples {
        writeln!(out, "  hidden: {example}")?;
    }
    Ok(())
}

fn facts(status: &Status) -> Table {
    let mut table = Table::new(&["", ""]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    for source in &status.sources {
        let place =
            if source.path.is_empty() { String::new() } else { format!(" at {}/", source.path) };
        row("source", format!("{}{place}", source.url));
    }
    row(
        "daemon",
        format!(
            "pid {}, version {}, up {}, {} resident",
            status.pid,
            status.version,
            output::duration(status.uptime_s),
            output::bytes(status.resident_bytes)
        ),
    );
    row("open", with_reason(&status.open_mode, status.open_mode_reason.as_deref()));
    row("transport", with_reason(&status.transport, status.transport_reason.as_deref()));
    let reads = &status.reads;
    row(
        "reads",
        format!(
            "{} hits, {} misses, hit rate {}; {} passthrough opens, {} others",
            output::count(reads.hits),
            output::count(reads.misses),
            output::percent(reads.hits, reads.hits + reads.misses),
            output::count(reads.passthrough_opens),
            output::count(reads.cached_opens)
        ),
    );
    row(
        "bytes",
        format!(
            "{} from the cache by the daemon, {} from the bucket",
            output::bytes(reads.hit_bytes),
            output::bytes(reads.store_bytes)
        ),
    );
    row(
        "requests",
        format!(
            "{}; {} in flight of {} allowed",
            counters(&status.requests),
            output::count(status.requests_in_flight),
            output::count(status.requests_limit)
        ),
    );
    if !status.retries.is_empty() {
        row("retries", counters(&status.retries));
    }
    for load in &status.loads {
        row("load", load_fact(load));
    }
    if let Some(fill) = fill_fact(&status.fill) {
        row("fill", fill);
    }
    if let Some(cluster) = &status.cluster {
        cluster_facts(cluster).into_iter().for_each(|(name, value)| row(name, value));
    }
    let tree = &status.namespace;
    row("tree", tree_fact(tree, status.inodes));
    if !tree.hidden.is_empty() {
        row("hidden keys", counters(&tree.hidden));
    }
    table
}

/// A choice, and why it is not the one asked for.
fn with_reason(choice: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| choice.to_owned(), |why| format!("{choice} ({why})"))
}

fn tree_fact(tree: &NamespaceStatus, inodes: u64) -> String {
    format!(
        "{} directories with {} entries known, {} inodes in the kernel",
        output::count(tree.directories),
        output::count(tree.entries),
        output::count(inodes)
    )
}

/// A load job at work.
fn load_fact(load: &LoadStatus) -> String {
    format!(
        "{} of /{}: {} of {} files, {}/s, {} failed",
        load.id,
        load.path,
        output::count(load.cached + load.loaded),
        load.files_total.map_or_else(|| "?".into(), output::count),
        output::bytes(load.bytes_per_s as u64),
        output::count(load.failed)
    )
}

/// What was fetched ahead and what was brought into the page cache, if anything was.
fn fill_fact(fill: &FillStatus) -> Option<String> {
    let fetched = (fill.files > 0 || fill.in_flight > 0).then(|| {
        format!(
            "{} files ({}) fetched ahead; {} in flight of {} allowed, {} failed",
            output::count(fill.files),
            output::bytes(fill.bytes),
            output::count(fill.in_flight),
            output::count(fill.window),
            output::count(fill.failed)
        )
    });
    let pushed = (fill.pushed_files > 0).then(|| {
        format!(
            "{} files ({}) brought from the cache's disk into the page cache",
            output::count(fill.pushed_files),
            output::bytes(fill.pushed_bytes)
        )
    });
    let facts: Vec<String> = fetched.into_iter().chain(pushed).collect();
    (!facts.is_empty()).then(|| facts.join("; "))
}

/// A source that cannot be heard: since when, and of when the members are.
fn unheard(it: &MembersFrom, why: &str) -> String {
    let time = |unix_s: u64| output::time(i64::try_from(unix_s).unwrap_or_default() * 1000);
    let since = it.lost_unix_s.map(|at| format!(" since {}", time(at))).unwrap_or_default();
    let members = match it.heard_unix_s.map(time) {
        Some(at) if it.remembered => {
            format!("members are those of {at}, remembered from before this start")
        }
        Some(at) => format!("members stay as they were at {at}"),
        None => "it has named nobody yet".into(),
    };
    format!("{} {} CANNOT BE HEARD{since}, {members}: {why}", it.source, it.place)
}

/// The node among the others, and what passed between them.
fn cluster_facts(cluster: &ClusterStatus) -> Vec<(&'static str, String)> {
    let members = format!(
        "{} nodes with {} together, epoch {} ({}); this is {} at {}, local copies {}",
        output::count(cluster.members),
        output::bytes(cluster.quota_bytes),
        cluster.epoch,
        cluster.fingerprint,
        cluster.node,
        cluster.address,
        cluster.local_copies,
    );
    let sources = cluster.members_from.iter().map(|it| match &it.trouble {
        None => {
            let found = format!("{} {}, {} found", it.source, it.place, output::count(it.found));
            match &it.facts_trouble {
                None => found,
                Some(why) => format!("{found}, PINS AND LOADS THERE CANNOT BE HEARD: {why}"),
            }
        }
        Some(why) => unheard(it, why),
    });
    let sources: Vec<_> = sources.collect();
    let sources = if sources.is_empty() { "nobody: alone".into() } else { sources.join("; ") };
    let traffic = format!(
        "{} requests saved ({} from peers), {} served ({}), {} fell back to the bucket",
        output::count(cluster.requests_saved),
        output::bytes(cluster.bytes_from_peers),
        output::count(cluster.served),
        output::bytes(cluster.bytes_to_peers),
        output::count(cluster.fell_back),
    );
    let s3 = format!(
        "{}://{} ({}), {} requests ({} with an error), {} sent",
        if cluster.tls.is_some() { "https" } else { "http" },
        cluster.address,
        match cluster.s3.access.as_str() {
            "keys" => "signed with a key of s3-keys",
            "anonymous" => "no key needed",
            _ => "closed: there is no file s3-keys in cluster_secrets",
        },
        output::count(cluster.s3.requests),
        output::count(cluster.s3.errors),
        output::bytes(cluster.s3.bytes),
    );
    let mut facts =
        vec![("cluster", members), ("named by", sources), ("peers", traffic), ("s3 reads", s3)];
    if let Some(tls) = &cluster.tls {
        let until = i64::try_from(tls.expires_unix_s).unwrap_or_default();
        let until = output::time(until * 1000);
        let trouble = tls.trouble.iter().map(|trouble| format!("; {trouble}"));
        facts
            .push(("tls", format!("certificate until {until} UTC{}", trouble.collect::<String>())));
    }
    facts
}

fn peer_table(peers: &[PeerStatus]) -> Table {
    let mut table = Table::new(&[
        "peer",
        "state",
        ">quota",
        ">mean ms",
        ">p99 ms",
        ">in flight",
        ">objects",
        ">bytes",
        "passed by",
    ]);
    for peer in peers {
        let passed_by =
            if peer.passed_by.is_empty() { String::new() } else { counters(&peer.passed_by) };
        table.row([
            peer.address.clone(),
            with_reason(&peer.state, peer.trouble.as_deref()),
            output::bytes(peer.quota_bytes),
            format!("{:.1}", peer.latency_ms),
            format!("{:.1}", peer.latency_ms_p99),
            output::count(peer.in_flight),
            output::count(peer.objects),
            output::bytes(peer.bytes),
            passed_by,
        ]);
    }
    table
}

fn cache_table(dirs: &[CacheDirStatus]) -> Table {
    let mut table = Table::new(&[
        "cache", ">used", ">quota", ">", ">objects", ">pinned", ">evicted", ">corrupt", "state",
    ]);
    for dir in dirs {
        table.row([
            dir.dir.clone(),
            output::bytes(dir.used_bytes),
            output::bytes(dir.quota_bytes),
            output::percent(dir.used_bytes, dir.quota_bytes),
            output::count(dir.objects),
            output::count(dir.pinned),
            output::count(dir.evicted),
            output::count(dir.corrupt),
            dir.state.clone(),
        ]);
    }
    table
}

fn data_set_table(sets: &[DataSetStatus]) -> Table {
    let mut table = Table::new(&[
        "data set",
        ">files",
        ">here",
        ">read",
        ">readers",
        "fill",
        "page cache",
        "order",
    ]);
    for set in sets {
        let path = if set.path.is_empty() { "/" } else { &set.path };
        let order = match set.recognised_after {
            0 => set.order.clone(),
            reads => format!(
                "{} ({:.0} %, known after {} reads)",
                set.order,
                set.confidence * 100.0,
                output::count(reads)
            ),
        };
        table.row([
            path.to_owned(),
            output::count(set.files),
            output::percent(set.handled, set.files),
            // What was last known says nothing of now.
            if set.watched { output::percent(set.read, set.files) } else { "-".to_owned() },
            output::count(set.readers),
            set.state.clone(),
            set.push.clone(),
            order,
        ]);
    }
    table
}

/// `GET 1,200, LIST 3`, or `none`.
fn counters(counters: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> =
        counters.iter().map(|(name, count)| format!("{name} {}", output::count(*count))).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}
