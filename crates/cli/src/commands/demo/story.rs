//! What the demo tells: data, bucket, and the same loader through each file system, epoch by epoch.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use feedline_bench::facts::Facts;
use feedline_bench::report::{self, DemoEpoch, DemoReport, DemoSystem};
use feedline_bench::train::{Decode, Train, TrainArgs};
use indicatif::ProgressBar;

use super::stage::{BUCKET, Bucket, Mounted};
use super::{Args, make_images, say};

/// Images in a loader's batch: a quarter of the reference's, since the data set is small.
const BATCH_SIZE: usize = 64;

/// Images without `--images`.
const IMAGES: usize = 1_000;
/// Loader processes without `--processes`.
const PROCESSES: usize = 4;

/// Starts one of the systems that are compared.
type Start = fn(&Bucket, &Path) -> Result<Mounted>;

/// Runs everything, prints the table, writes `report.html`, `chart.svg` and `report.json` into `out`.
pub(super) fn tell(args: &Args, out: &Path, work: &Path) -> Result<()> {
    let (root, made) = make_images(args, IMAGES, work)?;
    let bucket = Bucket::start(&root, &args.latency)?;
    say(args, format!("Serving them as s3://{BUCKET}, {} to the first byte ...", args.latency));
    let mut actors: Vec<(&str, Start)> = vec![("feedline", Mounted::feedline)];
    if !args.no_s3fs {
        actors.push(("s3fs with cache", Mounted::s3fs));
    }
    let mut systems = Vec::new();
    for (name, start) in actors {
        systems.push(measure(args, name, start, &bucket, work)?);
    }
    let report = DemoReport {
        title: "Three epochs through a bucket".to_owned(),
        summary: summary(args, made.files, made.bytes),
        facts: Facts::collect(),
        systems,
    };
    say(args, format!("\n{}", report.text_table()));
    let page = write(&report, out)?;
    say(args, format!("The chart: {}", page.display()));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}

/// All epochs through one file system.
fn measure(
    args: &Args,
    name: &str,
    start: Start,
    bucket: &Bucket,
    work: &Path,
) -> Result<DemoSystem> {
    let mounted = start(bucket, work)?;
    let processes = args.processes.unwrap_or(PROCESSES);
    let mut train = TrainArgs::new(&mounted.dir.join("train"), args.epochs, processes);
    train.settings.batch_size = BATCH_SIZE;
    train.settings.print_freq = 0;
    train.settings.step_ms = 0;
    train.settings.decode = if args.decode { Decode::Jpeg } else { Decode::None };
    let mut running = Train::start(&train)?;
    let mut system = DemoSystem { name: name.to_owned(), epochs: Vec::new() };
    for epoch in 0..args.epochs {
        let before = bucket.requests()?;
        let spinner =
            ProgressBar::new_spinner().with_message(format!("{name}: epoch {}", epoch + 1));
        spinner.enable_steady_tick(std::time::Duration::from_millis(100));
        let result = running.epoch(epoch, &mut |_, _| ())?;
        spinner.finish_and_clear();
        say(args, format!("{name}: epoch {}: {:.0} images/s", epoch + 1, result.images_per_s));
        system.epochs.push(DemoEpoch {
            images: result.images,
            seconds: result.seconds,
            images_per_s: result.images_per_s,
            bucket_requests: Some(bucket.requests()?.since(before)),
        });
    }
    running.end()?;
    Ok(system)
}

fn summary(args: &Args, images: u64, bytes: u64) -> String {
    format!(
        "{images} JPEGs in {} folders ({:.0} MB), a bucket with {} to the first byte, {} loader processes that \
         list, shuffle and map as NVIDIA DALI does, {}, batch {BATCH_SIZE}, no pause between batches.",
        args.classes,
        bytes as f64 / 1e6,
        args.latency,
        args.processes.unwrap_or(PROCESSES),
        if args.decode { "decode on the CPU" } else { "leave decoding to the GPU" },
    )
}

fn write(report: &DemoReport, out: &Path) -> Result<PathBuf> {
    let page = out.join("report.html");
    report::write_html(&page, report)?;
    let chart = out.join("chart.svg");
    std::fs::write(&chart, report::svg(report))
        .with_context(|| format!("write {}", chart.display()))?;
    let json = out.join("report.json");
    std::fs::write(&json, serde_json::to_string_pretty(report)? + "\n")
        .with_context(|| format!("write {}", json.display()))?;
    Ok(page)
}
