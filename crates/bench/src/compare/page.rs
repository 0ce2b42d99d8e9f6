//! A comparison as a table for the terminal and as one page: charts drawn from the result and nothing
//! else. The page loads nothing from anywhere.

use std::fmt::Write as _;

use super::{CaseResult, CompareResult, EpochResult, Import, Point, State};
use crate::report::{Group, STYLE, WIDTH, bars, colour, cut, escape};
use crate::targets::Contestant;
use crate::units::median;

/// Columns of the table.
const HEAD: [&str; 13] = [
    "system",
    "epoch",
    "files/s",
    "to baseline",
    "MB/s",
    "p50 ms",
    "p99 ms",
    "GET / HEAD / LIST",
    "requests/file",
    "CPU s/GB daemon",
    "readers / kernel",
    "peak MiB",
    "disk MiB",
];

/// The clients in their order, each with its cases.
fn by_client(result: &CompareResult) -> Vec<(&str, Vec<&CaseResult>)> {
    let mut clients: Vec<(&str, Vec<&CaseResult>)> = Vec::new();
    for case in &result.cases {
        match clients.iter_mut().find(|(name, _)| *name == case.client) {
            Some((_, cases)) => cases.push(case),
            None => clients.push((&case.client, vec![case])),
        }
    }
    clients
}

fn state(state: State) -> &'static str {
    match state {
        State::Cold => "cold",
        State::Dropped => "page cache dropped",
        State::Hot => "hot",
        State::Restart => "after a restart",
    }
}

/// The cells of one epoch; every figure is a median over the rounds.
fn row(case: &CaseResult, number: usize, epoch: &EpochResult) -> [String; 13] {
    let of = |figure: &dyn Fn(&Contestant) -> Option<f64>| {
        median(&epoch.rounds.iter().filter_map(figure).collect::<Vec<f64>>())
    };
    let cell = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let verb = |of_verb: fn(&Contestant) -> Option<u64>| {
        cell(of(&|one| of_verb(one).map(|count| count as f64)), 0)
    };
    let requests = [
        verb(|one| one.requests.map(|requests| requests.get)),
        verb(|one| one.requests.map(|requests| requests.head)),
        verb(|one| one.requests.map(|requests| requests.list)),
    ];
    let mib = |bytes: fn(&Contestant) -> Option<u64>| {
        cell(of(&|one| Some(bytes(one)? as f64 / f64::from(1 << 20))), 0)
    };
    let cpu = |part: fn(crate::targets::Cost) -> f64| cell(of(&|one| one.cost.map(part)), 2);
    [
        case.system.clone(),
        format!("{} {}", number + 1, state(epoch.state)),
        cell(Some(epoch.files_per_s), 0),
        epoch.to_baseline.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2} x")),
        cell(of(&|one| Some(one.pass.as_ref()?.mb_per_s)), 0),
        cell(of(&|one| Some(one.pass.as_ref()?.latency.p50_us / 1e3)), 2),
        cell(of(&|one| Some(one.pass.as_ref()?.latency.p99_us / 1e3)), 2),
        requests.join(" / "),
        cell(Some(epoch.requests_per_file), 2),
        cpu(|cost| cost.daemon_cpu_s_per_gb),
        format!(
            "{} / {}",
            cpu(|cost| cost.readers_cpu_s_per_gb),
            cpu(|cost| cost.kernel_cpu_s_per_gb)
        ),
        mib(|one| one.peak_resident_bytes),
        mib(|one| one.disk_bytes),
    ]
}

/// What the columns p50 and p99 are the time of.
fn latency_note(cases: &[&CaseResult]) -> String {
    let of = cases.first().map_or("", |case| &case.latency_of);
    format!("p50 and p99: {of}")
}

/// What was done before the first round, if anything was.
fn import_note(result: &CompareResult) -> Option<String> {
    let Import { into, seconds, requests } = result.import.as_ref()?;
    Some(format!(
        "Before the first round, and part of no figure: the import into {into} took {seconds:.1} s, {} GET, \
         {} HEAD, {} LIST and {} PUT, POST or DELETE",
        requests.get, requests.head, requests.list, requests.other
    ))
}

fn rows(cases: &[&CaseResult]) -> Vec<[String; 13]> {
    let each = |case: &&CaseResult| {
        let epochs = case.epochs.iter().enumerate();
        epochs.map(|(number, epoch)| row(case, number, epoch)).collect::<Vec<_>>()
    };
    cases.iter().flat_map(each).collect()
}

/// What was read from where, in a sentence.
fn summary(result: &CompareResult) -> String {
    let bucket = &result.config.bucket;
    let bandwidth =
        bucket.bandwidth.as_ref().map_or("no cap".to_owned(), |cap| format!("{cap} in all"));
    let rounds = result.config.rounds;
    let rounds = if result.partial {
        format!("INTERRUPTED: median of the rounds that had ended by then, at most {rounds}")
    } else {
        format!("median of {rounds} rounds")
    };
    format!(
        "{} files, {:.0} MB; a bucket with {} to the first byte and {bandwidth}; {rounds}",
        result.files,
        result.bytes as f64 / 1e6,
        bucket.latency,
    )
}

/// The table for the terminal.
pub(super) fn text(result: &CompareResult) -> String {
    let mut text = format!("\n{}\n", summary(result));
    if let Some(note) = import_note(result) {
        let _ = writeln!(text, "{note}");
    }
    for (client, cases) in by_client(result) {
        let mut rows = rows(&cases);
        rows.insert(0, HEAD.map(str::to_owned));
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{client}; {}", latency_note(&cases));
        for row in &rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    for gone in &result.left_out {
        let _ = writeln!(text, "\nleft out: {}: {}", gone.name, gone.reason);
    }
    text
}

/// The whole page.
pub(super) fn html(result: &CompareResult) -> String {
    let mut body = String::new();
    for (client, cases) in by_client(result) {
        let _ = writeln!(body, "<h2>{}</h2>", escape(client));
        body.push_str(&epochs_chart(&cases, "files/s", 0, |epoch| epoch.files_per_s));
        let title = "requests to the bucket for each file";
        body.push_str(&epochs_chart(&cases, title, 2, |epoch| epoch.requests_per_file));
        body.push_str(&timelines(&cases));
        body.push_str(&table(&cases));
        let _ = writeln!(body, "<p>{}</p>", escape(&latency_note(&cases)));
    }
    body.push_str(&by_readers(result));
    if let Some(note) = import_note(result) {
        let _ = writeln!(body, "<p>{}</p>", escape(&note));
    }
    for gone in &result.left_out {
        let _ = writeln!(body, "<p>Left out: {}: {}</p>", escape(&gone.name), escape(&gone.reason));
    }
    let versions: Vec<String> =
        result.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}h2{{font-size:1.2rem;margin-top:2.4rem}}\
         .wide{{overflow-x:auto}}.wide table{{font-size:.8rem}}polyline{{fill:none;stroke-width:2}}</style>\n\
         <h1>{title}</h1>\n<p>{summary}</p>\n{body}\
         <footer>{facts}<br>{versions}<br>{command}</footer>\n</html>\n",
        title = escape(&result.config.title),
        summary = escape(&summary(result)),
        facts = escape(&result.facts.line()),
        versions = escape(&versions.join("; ")),
        command = escape(&result.facts.command.join(" ")),
    )
}

fn table(cases: &[&CaseResult]) -> String {
    let head: String = HEAD.iter().map(|name| format!("<th>{name}</th>")).collect();
    let line = |row: &[String; 13]| {
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let lines: String = rows(cases).iter().map(line).collect();
    format!(
        "<div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>\n"
    )
}

/// Bars by epoch, a bar for each system.
fn epochs_chart(
    cases: &[&CaseResult],
    what: &str,
    digits: usize,
    figure: fn(&EpochResult) -> f64,
) -> String {
    let epochs = cases.first().map_or(&[][..], |case| &case.epochs);
    let group = |(number, epoch): (usize, &EpochResult)| Group {
        label: format!("Epoch {} ({}), {what}", number + 1, state(epoch.state)),
        bars: cases
            .iter()
            .map(|case| (case.system.clone(), case.epochs.get(number).map(figure)))
            .collect(),
    };
    let groups: Vec<Group> = epochs.iter().enumerate().map(group).collect();
    bars(what, &groups, digits) + "\n"
}

/// A line of a chart: its name, the place of its colour, and its points.
struct Series<'a> {
    name: &'a str,
    colour: usize,
    points: Vec<(f64, f64)>,
}

/// What bucket and daemon said during the cold epoch.
fn timelines(cases: &[&CaseResult]) -> String {
    let series = |figure: &dyn Fn(&Point) -> Option<f64>| -> Vec<Series<'_>> {
        let each = cases.iter().enumerate().map(|(colour, case)| Series {
            name: &case.system,
            colour,
            points: case
                .timeline
                .iter()
                .filter_map(|point| Some((point.seconds, figure(point)?)))
                .collect(),
        });
        each.filter(|series| !series.points.is_empty()).collect()
    };
    let mut text = String::new();
    for (title, lines) in [
        ("Cold epoch: requests in flight at the bucket", series(&|at| Some(at.in_flight as f64))),
        ("Cold epoch: MB/s from the bucket", series(&|at| Some(at.mb_per_s))),
        (
            "Cold epoch: answered from Feedline's cache, %",
            series(&|at| at.hit_rate.map(|rate| rate * 100.0)),
        ),
    ] {
        text.push_str(&line_chart(title, "seconds", &lines));
    }
    text
}

/// Files a second in the first epoch by the number of readers, for each program that was run with
/// several numbers of them.
fn by_readers(result: &CompareResult) -> String {
    let program = |case: &CaseResult| case.client.split(',').next().unwrap_or_default().to_owned();
    let mut programs: Vec<String> = result.cases.iter().map(program).collect();
    programs.sort_unstable();
    programs.dedup();
    let chart = |name: &String| {
        by_readers_of(name, result.cases.iter().filter(|case| program(case) == *name))
    };
    programs.iter().map(chart).collect()
}

fn by_readers_of<'a>(program: &str, cases: impl Iterator<Item = &'a CaseResult>) -> String {
    let mut lines: Vec<Series<'_>> = Vec::new();
    for case in cases {
        let (Some(readers), Some(epoch)) = (case.readers, case.epochs.first()) else { continue };
        let place = lines.iter().position(|line| line.name == case.system).unwrap_or_else(|| {
            let (name, colour) = (case.system.as_str(), lines.len());
            lines.push(Series { name, colour, points: Vec::new() });
            colour
        });
        lines[place].points.push((readers as f64, epoch.files_per_s));
    }
    if lines.iter().all(|line| line.points.len() < 2) {
        return String::new();
    }
    line_chart(&format!("Cold epoch: files/s by readers ({program})"), "readers", &lines)
}

/// Lines over a common pair of axes that begin at zero; nothing for no lines.
fn line_chart(title: &str, along: &str, lines: &[Series<'_>]) -> String {
    const LEFT: f64 = 60.0;
    const TOP: f64 = 30.0;
    const HEIGHT: f64 = 240.0;
    const RIGHT: f64 = 150.0;
    // What fits to the right of the lines.
    const NAME_CHARS_MAX: usize = 16;
    let points = || lines.iter().flat_map(|line| &line.points);
    if points().next().is_none() {
        return String::new();
    }
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (across, up) = (most(|point| point.0), most(|point| point.1));
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / across;
    let y = |value: f64| TOP + HEIGHT * (1.0 - value / up);
    let (title, base) = (escape(title), TOP + HEIGHT);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{title}\">\n\
         <text class=\"soft\" x=\"0\" y=\"16\">{title}</text>\n",
        base + 26.0
    );
    for part in 0..=4 {
        let part = f64::from(part) / 4.0;
        let (left, down) = (x(across * part), y(up * part));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{down:.1}\" x2=\"{:.1}\" y2=\"{down:.1}\"/>\
             <text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text class=\"soft\" x=\"{left:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            down + 4.0,
            short(up * part),
            base + 18.0,
            short(across * part),
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"soft\" x=\"{}\" y=\"{}\">{along}</text>",
        WIDTH - RIGHT + 24.0,
        base + 18.0
    );
    for (number, line) in lines.iter().enumerate() {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        let (colour, level) = (colour(line.colour), TOP + 14.0 + number as f64 * 20.0);
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" stroke=\"{colour}\"/>\
             <rect x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            path.join(" "),
            WIDTH - RIGHT + 14.0,
            level - 11.0,
            WIDTH - RIGHT + 32.0,
            level,
            escape(&cut(line.name, NAME_CHARS_MAX))
        );
    }
    svg + "</svg>\n"
}

/// A number with as many digits as an axis needs.
fn short(value: f64) -> String {
    if value >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
