//! One frame of `feedline top`: what is drawn of the last answer and the one before.

use feedline_node::api::{LoadStatus, NodeSummary};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Gauge, Paragraph, Row, Table};

use crate::commands::nodes::troubles;
use crate::output;

/// Lines of a frame beside those of nodes, jobs and troubles: header, bar, sums, their gaps, a heading, a note.
const FIXED_ROWS: u16 = 8;

/// Cells of a job's bar.
const BAR: usize = 20;

/// What the table cannot say, because nobody knows.
const NOTE: &str =
    "reads that the kernel answers alone (page cache, files handed to it) are seen by nobody";

/// The last answer, the one before, and what went wrong since.
#[derive(Debug)]
pub(super) struct Shown {
    mountpoint: String,
    nodes: Vec<NodeSummary>,
    before: Vec<NodeSummary>,
    failure: Option<String>,
}

impl Shown {
    /// The first answer: there are no rates yet.
    pub(super) fn of(mountpoint: String, nodes: Vec<NodeSummary>) -> Self {
        Self { mountpoint, nodes, before: Vec::new(), failure: None }
    }

    /// The next one.
    pub(super) fn next(&mut self, nodes: Vec<NodeSummary>) {
        self.before = std::mem::replace(&mut self.nodes, nodes);
        self.failure = None;
    }

    /// There was none: what is known stays.
    pub(super) fn fail(&mut self, error: &anyhow::Error) {
        self.failure = Some(format!("no answer: {error:#}"));
    }

    /// Lines that everything takes.
    pub(super) fn rows(&self) -> u16 {
        let rows = self.nodes.len() + self.jobs().count() + self.troubles().len();
        u16::try_from(rows).unwrap_or(u16::MAX - FIXED_ROWS) + FIXED_ROWS
    }

    fn jobs(&self) -> impl Iterator<Item = (&NodeSummary, &LoadStatus)> {
        self.nodes.iter().flat_map(|node| node.loads.iter().map(move |load| (node, load)))
    }

    fn troubles(&self) -> Vec<String> {
        self.failure.iter().cloned().chain(troubles(&self.nodes)).collect()
    }

    fn rates(&self, node: &NodeSummary) -> Option<Rates> {
        let is_same = |it: &&NodeSummary| it.node == node.node && it.address == node.address;
        Rates::between(self.before.iter().find(is_same)?, node)
    }
}

/// What one node did each second between two answers, by its own clock.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    cache: f64,
    peers: f64,
    bucket: f64,
    served: f64,
    requests: f64,
    hits: u64,
    reads: u64,
}

impl Rates {
    /// `None`: it has not answered both times, has begun anew, or not gone on.
    fn between(before: &NodeSummary, now: &NodeSummary) -> Option<Self> {
        let seconds = now.uptime_s - before.uptime_s;
        if before.version.is_empty() || now.version.is_empty() || seconds <= 0.0 {
            return None;
        }
        let rate =
            |of: fn(&NodeSummary) -> u64| of(now).saturating_sub(of(before)) as f64 / seconds;
        let hits = now.hits.saturating_sub(before.hits);
        Some(Self {
            cache: rate(|node| node.hit_bytes),
            peers: rate(|node| node.bytes_from_peers),
            bucket: rate(|node| node.store_bytes),
            served: rate(|node| node.bytes_to_peers),
            requests: rate(|node| node.requests.values().sum()),
            hits,
            reads: hits + now.misses.saturating_sub(before.misses),
        })
    }

    fn add(self, other: Self) -> Self {
        Self {
            cache: self.cache + other.cache,
            peers: self.peers + other.peers,
            bucket: self.bucket + other.bucket,
            served: self.served + other.served,
            requests: self.requests + other.requests,
            hits: self.hits + other.hits,
            reads: self.reads + other.reads,
        }
    }
}

/// Draws everything. What has no room is left out from below.
pub(super) fn draw(frame: &mut Frame<'_>, shown: &Shown) {
    let nodes = u16::try_from(shown.nodes.len()).unwrap_or(u16::MAX).saturating_add(1);
    let jobs = u16::try_from(shown.jobs().count()).unwrap_or(u16::MAX);
    let [head, bar, sums, _, table, _, loads, troubles, note] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(nodes),
        Constraint::Length(1),
        Constraint::Length(jobs),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(header(shown), head);
    draw_capacity(frame, shown, bar);
    frame.render_widget(Paragraph::new(sum(shown)), sums);
    frame.render_widget(node_table(shown), table);
    let jobs: Vec<_> = shown.jobs().map(|(node, load)| Line::from(job(node, load))).collect();
    frame.render_widget(Paragraph::new(jobs), loads);
    let red = Style::new().fg(Color::Red);
    let lines: Vec<_> =
        shown.troubles().into_iter().map(|line| Line::from(Span::styled(line, red))).collect();
    frame.render_widget(Paragraph::new(lines), troubles);
    let dim = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Paragraph::new(format!("{NOTE}.   q quits")).style(dim), note);
}

fn header(shown: &Shown) -> Paragraph<'_> {
    let first = shown.nodes.first();
    let up = shown.nodes.iter().filter(|node| !node.version.is_empty()).count();
    let source = first.and_then(|node| node.sources.first()).map_or("", String::as_str);
    let cluster = match first {
        Some(node) if !node.node.is_empty() => format!(
            "{up} of {} nodes answer, epoch {} ({})",
            shown.nodes.len(),
            node.epoch,
            node.fingerprint
        ),
        Some(_) => "one node, no cluster".to_owned(),
        None => "nobody answers".to_owned(),
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Paragraph::new(Line::from(vec![
        Span::styled(format!("feedline top  {}", shown.mountpoint), bold),
        Span::raw(format!("  {source}  {cluster}")),
    ]))
}

fn draw_capacity(frame: &mut Frame<'_>, shown: &Shown, area: Rect) {
    let sum = |of: fn(&NodeSummary) -> u64| shown.nodes.iter().map(of).sum::<u64>();
    let (used, quota) = (sum(|node| node.used_bytes), sum(|node| node.quota_bytes));
    let ratio = if quota == 0 { 0.0 } else { (used as f64 / quota as f64).clamp(0.0, 1.0) };
    let label = format!(
        "SSDs: {} of {}, {} objects",
        output::bytes(used),
        output::bytes(quota),
        output::count(sum(|node| node.objects))
    );
    let style = Style::new().fg(Color::Cyan);
    frame.render_widget(Gauge::default().ratio(ratio).label(label).gauge_style(style), area);
}

/// Bytes a second.
fn rate(bytes: f64) -> String {
    format!("{}/s", output::bytes(bytes as u64))
}

/// The hit rate of the interval; where nothing was read in it, that since the mount, in brackets.
fn hit_rate(rates: Option<Rates>, hits: u64, misses: u64) -> String {
    match rates {
        Some(rates) if 0 < rates.reads => output::percent(rates.hits, rates.reads),
        _ if hits + misses == 0 => "-".to_owned(),
        _ => format!("({})", output::percent(hits, hits + misses)),
    }
}

fn sum(shown: &Shown) -> String {
    let known: Vec<_> = shown.nodes.iter().filter_map(|node| shown.rates(node)).collect();
    let total = |of: fn(&NodeSummary) -> u64| shown.nodes.iter().map(of).sum::<u64>();
    let all = (!known.is_empty()).then(|| known.into_iter().fold(Rates::default(), Rates::add));
    let Rates { cache, peers, bucket, requests, .. } = all.unwrap_or_default();
    format!(
        "all: {} from caches, {} from peers, {} from the bucket, {requests:.0} requests/s; SSD hits {}; {} requests saved",
        rate(cache),
        rate(peers),
        rate(bucket),
        hit_rate(all, total(|node| node.hits), total(|node| node.misses)),
        output::count(total(|node| node.requests_saved)),
    )
}

fn node_table(shown: &Shown) -> Table<'_> {
    let rows = shown.nodes.iter().map(|node| node_row(shown, node));
    let widths = [
        Constraint::Fill(2),
        Constraint::Length(8),
        Constraint::Length(20),
        Constraint::Length(10),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(10),
    ];
    let heading = [
        "node",
        "state",
        "SSD used",
        "SSD hits",
        "cache",
        "from peers",
        "bucket",
        "to peers",
        "requests",
    ];
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Table::new(rows, widths).header(Row::new(heading).style(bold))
}

fn node_row(shown: &Shown, node: &NodeSummary) -> Row<'static> {
    let color = match node.state.as_str() {
        _ if node.version.is_empty() => Color::Red,
        "slow" => Color::Yellow,
        _ => Color::Reset,
    };
    let place = if node.address.is_empty() { &node.mountpoint } else { &node.address };
    let name = format!("{place}{}", if node.this { " (this)" } else { "" });
    let style = Style::new().fg(color);
    if node.version.is_empty() {
        return Row::new([name, node.state.clone(), "?".to_owned()]).style(style);
    }
    let rates = shown.rates(node);
    let Rates { cache, peers, bucket, served, requests, .. } = rates.unwrap_or_default();
    let used = format!("{} / {}", output::bytes(node.used_bytes), output::bytes(node.quota_bytes));
    Row::new([
        name,
        node.state.clone(),
        used,
        hit_rate(rates, node.hits, node.misses),
        rate(cache),
        rate(peers),
        rate(bucket),
        rate(served),
        format!("{requests:.0}/s"),
    ])
    .style(style)
}

/// A load job: how far it is, how fast, how long it still takes.
fn job(node: &NodeSummary, load: &LoadStatus) -> String {
    let done = load.cached_bytes + load.loaded_bytes;
    let share = match load.bytes_total {
        Some(total) if 0 < total => (done as f64 / total as f64).clamp(0.0, 1.0),
        _ => 0.0,
    };
    let full = (share * BAR as f64) as usize;
    let bar = format!("{}{}", "#".repeat(full), ".".repeat(BAR - full));
    let files = output::count(load.cached + load.loaded);
    let total = load.files_total.map_or_else(|| "?".to_owned(), output::count);
    let left = load
        .eta_s
        .map_or_else(String::new, |eta| format!(", {} left", output::duration(eta.ceil())));
    let at = if node.this || node.address.is_empty() {
        String::new()
    } else {
        format!(" on {}", node.address)
    };
    format!(
        "load {} /{}{at} [{bar}] {files} of {total} files, {}/s{left}, {} failed",
        load.id,
        load.path,
        output::bytes(load.bytes_per_s as u64),
        output::count(load.failed)
    )
}
