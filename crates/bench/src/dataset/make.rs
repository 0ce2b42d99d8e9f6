//! `feedline dataset make`: an ImageNet-like folder of real JPEGs, from a seed.
//!
//! ```text
//! DIR/train/n01440764/n01440764_123.JPEG     DIR/val/n01440764/ILSVRC2012_val_00000001.JPEG
//! ```
//!
//! Sizes are log-normal around the mean, cut at both ends. Each image follows from the seed and its
//! own number alone, so the number of threads changes nothing and an interrupted run goes on: a file
//! that is there with its size is left. How the images are made is in `pool`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use super::pool::{Pool, ROW_PIXELS, Random, WIDTHS};
use crate::units::{parse_size, rate};

/// Name of the file in `DIR` that says what was made. Uploads leave it out.
pub const MANIFEST: &str = ".feedline-dataset.json";

/// Spread of the logarithm of the sizes. A guess that fills 20 to 400 KB around 110.
const SIGMA: f64 = 0.5;
/// Bytes a pixel, drawn evenly: around the 0.6 that 110 KB on 500 x 375 makes. The width is a guess.
const BYTES_A_PIXEL: (f64, f64) = (0.45, 0.75);
/// Height to width, in sixteenths; landscape is more common.
const ASPECTS: [usize; 8] = [12, 12, 12, 11, 11, 9, 16, 20];
/// The first class folders of ImageNet; the others get numbers like theirs.
const WNIDS: [u32; 10] = [
    1_440_764, 1_443_537, 1_484_850, 1_491_361, 1_494_475, 1_496_331, 1_498_041, 1_514_668,
    1_514_859, 1_518_878,
];

/// What to make. Equal values make equal bytes.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct MakeArgs {
    /// Folder to make it in
    #[serde(skip)]
    pub dir: PathBuf,
    /// Images below train/
    #[arg(long, default_value_t = 10_000)]
    pub images: usize,
    /// Images below val/
    #[arg(long, default_value_t = 0)]
    pub val_images: usize,
    /// Class folders
    #[arg(long, default_value_t = 100)]
    pub classes: usize,
    /// Equal seeds make equal bytes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Mean size of a file
    #[arg(long, default_value = "110KB", value_parser = parse_size, value_name = "SIZE")]
    pub mean: u64,
    /// Smallest file
    #[arg(long, default_value = "20KB", value_parser = parse_size, value_name = "SIZE")]
    pub min: u64,
    /// Largest file
    #[arg(long, default_value = "400KB", value_parser = parse_size, value_name = "SIZE")]
    pub max: u64,
    /// Threads; 0 takes one per CPU
    #[arg(long, default_value_t = 0)]
    #[serde(skip)]
    pub threads: usize,
    /// Print the result as JSON
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
}

impl MakeArgs {
    /// A data set with the defaults of the command line.
    #[must_use]
    pub fn new(dir: &Path, images: usize, classes: usize, seed: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            images,
            val_images: 0,
            classes,
            seed,
            mean: 110_000,
            min: 20_000,
            max: 400_000,
            threads: 0,
            json: false,
        }
    }
}

/// What was made, or found made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The parameters.
    pub parameters: MakeArgs,
    /// False while it is being made.
    pub complete: bool,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were already there.
    pub kept: u64,
    /// How long it took; 0 if all was there.
    pub seconds: f64,
    /// Files written a second.
    pub images_per_s: f64,
}

/// Makes the data set, or goes on making it, and returns when it is complete.
///
/// # Errors
///
/// If the folder holds a data set with other parameters, the sizes contradict each other, or a file
/// cannot be written (the path is named).
pub fn make(args: &MakeArgs, progress: &ProgressBar) -> Result<Made> {
    check(args)?;
    fs::create_dir_all(&args.dir).with_context(|| format!("create {}", args.dir.display()))?;
    let manifest = args.dir.join(MANIFEST);
    if let Ok(text) = fs::read_to_string(&manifest) {
        let made: Made = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; remove the folder", manifest.display()))?;
        let same = MakeArgs {
            dir: args.dir.clone(),
            threads: args.threads,
            json: args.json,
            ..made.parameters.clone()
        };
        if same != *args {
            bail!(
                "{} holds a data set with other parameters ({} images, seed {}); remove it or choose another folder",
                args.dir.display(),
                made.parameters.images,
                made.parameters.seed
            );
        }
        if made.complete {
            return Ok(Made { kept: made.files, seconds: 0.0, images_per_s: 0.0, ..made });
        }
    }
    let mut made = Made {
        parameters: args.clone(),
        complete: false,
        files: 0,
        bytes: 0,
        kept: 0,
        seconds: 0.0,
        images_per_s: 0.0,
    };
    write_manifest(&manifest, &made)?;
    make_folders(args)?;
    let started = crate::time::now();
    let totals = write_all(args, progress)?;
    made.files = (args.images + args.val_images) as u64;
    made.bytes = totals.bytes.into_inner();
    made.kept = totals.kept.into_inner();
    made.seconds = started.elapsed().as_secs_f64();
    made.images_per_s = rate((made.files - made.kept) as f64, made.seconds);
    made.complete = true;
    write_manifest(&manifest, &made)?;
    Ok(made)
}

fn check(args: &MakeArgs) -> Result<()> {
    if args.classes == 0 || args.classes > 1_000 {
        bail!("--classes must be 1 to 1000, not {}", args.classes);
    }
    if !(args.min < args.mean && args.mean < args.max) {
        bail!("--min, --mean and --max must rise: {} {} {}", args.min, args.mean, args.max);
    }
    // The pool's shapes were tried from 20 to 400 KB; beyond these bounds its strips may not reach.
    if args.max > 700_000 || args.min < 8_000 {
        bail!("sizes must lie between 8KB and 700KB");
    }
    Ok(())
}

/// Written whole under another name first: a manifest is either there or not.
fn write_manifest(path: &Path, made: &Made) -> Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_string_pretty(made)? + "\n")
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("write {}", path.display()))
}

/// The name of class folder `class`.
fn wnid(class: usize) -> String {
    let number = WNIDS.get(class).copied().unwrap_or_else(|| 1_530_000 + class as u32 * 13_007);
    format!("n{number:08}")
}

fn make_folders(args: &MakeArgs) -> Result<()> {
    for (part, images) in [("train", args.images), ("val", args.val_images)] {
        for class in 0..args.classes.min(images) {
            let folder = args.dir.join(part).join(wnid(class));
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
    }
    Ok(())
}

/// A pool of one width, or why it could not be built.
type BuiltPool = OnceLock<Result<Pool, String>>;

#[derive(Debug, Default)]
struct Totals {
    bytes: AtomicU64,
    kept: AtomicU64,
}

/// Images that a thread takes at a time: few enough to end together, many enough not to contend.
const CHUNK: usize = 32;

fn write_all(args: &MakeArgs, progress: &ProgressBar) -> Result<Totals> {
    let count = args.images + args.val_images;
    progress.set_length(count as u64);
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let pools: [BuiltPool; WIDTHS.len()] = Default::default();
    let scale = mean_scale(args);
    let totals = Totals::default();
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        loop {
            let start = next.fetch_add(CHUNK, Ordering::Relaxed);
            if start >= count {
                return Ok(());
            }
            for index in start..count.min(start + CHUNK) {
                write_one(args, &pools, scale, index, &totals)?;
            }
            progress.inc((count.min(start + CHUNK) - start) as u64);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| bail!("a thread that makes images panicked"))
        })
    })?;
    Ok(totals)
}

fn write_one(
    args: &MakeArgs,
    pools: &[BuiltPool],
    scale: f64,
    index: usize,
    totals: &Totals,
) -> Result<()> {
    let mut random = Random::new(args.seed, index as u64 + 1_000_000);
    let bytes = draw_bytes(args, scale, &mut random);
    let (width, height) = draw_shape(bytes, &mut random);
    // Built by the first who needs it, while others wait; its error goes to each of them.
    let pool = pools[width]
        .get_or_init(|| Pool::build(args.seed, WIDTHS[width]).map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow::anyhow!("encode the pictures {} wide: {error}", WIDTHS[width]))?;
    let comment = format!("feedline dataset, seed {} image {index}", args.seed);
    let jpeg = pool.splice(&mut random, height, bytes as usize, &comment);
    let path = args.dir.join(name(args, index));
    totals.bytes.fetch_add(jpeg.len() as u64, Ordering::Relaxed);
    if fs::metadata(&path).is_ok_and(|found| found.len() == jpeg.len() as u64) {
        totals.kept.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    fs::write(&path, jpeg).with_context(|| format!("write {}", path.display()))
}

/// Where image `index` goes, relative to the folder.
fn name(args: &MakeArgs, index: usize) -> String {
    if index < args.images {
        let class = wnid(index % args.classes);
        // Numbers with gaps, so that their order as text is not their order as numbers.
        format!("train/{class}/{class}_{}.JPEG", index / args.classes * 7 + 3)
    } else {
        let index = index - args.images;
        format!("val/{}/ILSVRC2012_val_{:08}.JPEG", wnid(index % args.classes), index + 1)
    }
}

/// A size: log-normal, cut at both ends.
fn draw_bytes(args: &MakeArgs, scale: f64, random: &mut Random) -> u64 {
    // e^x as (1 + x/1024)^1024: multiplication rounds alike on every machine, a library's exp not.
    let mut factor = 1.0 + SIGMA * random.normal() / 1024.0;
    for _ in 0..10 {
        factor *= factor;
    }
    let bytes = scale * factor;
    // Strips come in steps: a hundredth of room at both ends keeps the file itself inside.
    (bytes as u64).clamp(args.min + args.min / 100, args.max - args.max / 100)
}

/// Cutting moves the mean; this finds the scale with which the mean is right, by a fixed sample.
fn mean_scale(args: &MakeArgs) -> f64 {
    let mut low = args.min as f64 / 4.0;
    let mut high = args.max as f64 * 4.0;
    // 40 halvings: far below one byte.
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        let mut random = Random::new(0, 7);
        let sample = 2_000;
        let sum: u64 = (0..sample).map(|_| draw_bytes(args, middle, &mut random)).sum();
        if sum < args.mean * sample { low = middle } else { high = middle }
    }
    low
}

/// Index of the width, and the height, for an image of `bytes`.
fn draw_shape(bytes: u64, random: &mut Random) -> (usize, usize) {
    let density = BYTES_A_PIXEL.0 + (BYTES_A_PIXEL.1 - BYTES_A_PIXEL.0) * random.unit();
    let area = bytes as f64 / density;
    let aspect = ASPECTS[random.below(ASPECTS.len())] as f64 / 16.0;
    let wanted = (area / aspect).sqrt();
    let distance = |index: &usize| (f64::from(WIDTHS[*index]) - wanted).abs();
    let width =
        (0..WIDTHS.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("widths");
    let pixels = f64::from(WIDTHS[width]);
    let height = (area / pixels).clamp(ROW_PIXELS as f64 * 4.0, pixels * 4.0 / 3.0);
    (width, height as usize)
}
