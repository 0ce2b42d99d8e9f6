//! Many distinct JPEGs per second, by splicing: images are put together from strips encoded before.
//!
//! A baseline JPEG with a restart marker after every row of 16 x 16 blocks is a header and a list of
//! strips that can be decoded independently. For each width this module encodes one smooth picture
//! several times, with [`LEVELS`] strengths of noise (which steer the size) and [`VARIANTS`] of each
//! noise. An image is a start row, a height, and per row one of these strips. So an image is a
//! standard JPEG that any decoder reads in full, no two are equal, and entropy decoding costs what it
//! costs for a photo of that size; but images of one width share their colours and shapes. Good for
//! measuring IO and decoding, useless for learning.
//!
//! # Invariants
//!
//! - Everything follows from the seed: same seed, same bytes, on every machine.
//! - A pool is immutable once built.

use anyhow::{Context, Result, ensure};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

/// Pixels in a row of blocks: 4:2:0 subsampling makes blocks of 16 x 16.
pub(super) const ROW_PIXELS: usize = 16;
/// Strengths of pixel noise, found by trial: with quality 90 sizes from 20 to 400 KB are met.
const LEVELS: [i32; 8] = [1, 6, 12, 20, 32, 48, 72, 104];
/// Encodings of each row and level: enough that images of 20 rows hardly repeat; the comment in each
/// file makes it distinct in any case.
const VARIANTS: usize = 3;
/// What most cameras write.
const QUALITY: u8 = 90;
/// Widths that images have. A guess around the usual 500.
pub(super) const WIDTHS: [u16; 8] = [256, 320, 375, 400, 500, 640, 800, 1024];

/// SplitMix64: tiny, and its stream is fixed for good, unlike that of a library's generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The stream `stream` of `seed`.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// 0 to `range` - 1. The bias is below one in 2^32 for the small ranges here.
    pub fn below(&mut self, range: usize) -> usize {
        ((u128::from(self.next()) * range as u128) >> 64) as usize
    }

    /// From 0 up to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal, near enough: the sum of twelve uniform draws. Exact on every machine, as it
    /// only adds.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// The strips of one encoding, from top to bottom, without their markers.
type Strips = Vec<Box<[u8]>>;

/// The strips of one width.
#[derive(Debug)]
pub(super) struct Pool {
    /// Everything before the entropy-coded data.
    header: Vec<u8>,
    /// Where the header keeps the height.
    height_at: usize,
    /// Where the scan header begins: the comment goes before it.
    scan_at: usize,
    /// By level, variant and row.
    strips: Vec<Vec<Strips>>,
    /// Mean bytes of a strip, by level; rising.
    level_bytes: Vec<f64>,
    /// Rows of blocks.
    rows: usize,
}

impl Pool {
    /// Encodes the strips for `width`. Cost: 24 encodings of a picture of `width` x 4/3 `width`.
    pub(super) fn build(seed: u64, width: u16) -> Result<Self> {
        let rows = (usize::from(width) * 4 / 3).div_ceil(ROW_PIXELS);
        let mut strips = Vec::new();
        let mut level_bytes = Vec::new();
        let mut header = None;
        for (level, &noise) in LEVELS.iter().enumerate() {
            let mut variants = Vec::new();
            for variant in 0..VARIANTS {
                let stream = u64::from(width) << 16 | (level as u64) << 8 | variant as u64;
                let jpeg = encode(seed, stream, width, rows, noise)?;
                let (head, parts) = split(&jpeg)?;
                ensure!(parts.len() == rows, "the encoder made {} strips of {rows}", parts.len());
                header.get_or_insert(head);
                variants.push(parts);
            }
            let bytes: usize = variants.iter().flatten().map(|strip| strip.len() + 2).sum();
            level_bytes.push(bytes as f64 / (VARIANTS * rows) as f64);
            strips.push(variants);
        }
        let header = header.context("no level was encoded")?;
        let height_at = segment(&header, 0xc0)? + 5;
        let scan_at = segment(&header, 0xda)?;
        Ok(Self { header, height_at, scan_at, strips, level_bytes, rows })
    }

    /// Puts one image together: `height` pixels, as near to `bytes` as the levels allow, with
    /// `comment` in it.
    pub(super) fn splice(
        &self,
        random: &mut Random,
        height: usize,
        bytes: usize,
        comment: &str,
    ) -> Vec<u8> {
        let rows = height.div_ceil(ROW_PIXELS).clamp(1, self.rows);
        let height = height.clamp(1, rows * ROW_PIXELS);
        let start = random.below(self.rows - rows + 1);
        let mut jpeg = Vec::with_capacity(bytes + 4096);
        jpeg.extend_from_slice(&self.header[..self.scan_at]);
        jpeg.extend_from_slice(&[0xff, 0xfe]);
        jpeg.extend_from_slice(&(comment.len() as u16 + 2).to_be_bytes());
        jpeg.extend_from_slice(comment.as_bytes());
        jpeg.extend_from_slice(&self.header[self.scan_at..]);
        jpeg[self.height_at..self.height_at + 2].copy_from_slice(&(height as u16).to_be_bytes());
        for row in 0..rows {
            let left = bytes.saturating_sub(jpeg.len()) as f64 / (rows - row) as f64;
            let variants = &self.strips[self.level_near(left)];
            jpeg.extend_from_slice(&variants[random.below(VARIANTS)][start + row]);
            // The last strip is followed by the end of the image, every other by its marker.
            let marker = if row + 1 == rows { 0xd9 } else { 0xd0 + (row % 8) as u8 };
            jpeg.extend_from_slice(&[0xff, marker]);
        }
        jpeg
    }

    /// The level whose strips are nearest to `bytes`.
    fn level_near(&self, bytes: f64) -> usize {
        let distance = |level: &usize| (self.level_bytes[*level] - bytes).abs();
        (0..self.level_bytes.len())
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .expect("there are levels")
    }
}

/// One picture: smooth waves of colour, soft blotches, and pixel noise of the strength given.
fn encode(seed: u64, stream: u64, width: u16, rows: usize, noise: i32) -> Result<Vec<u8>> {
    let (width, height) = (usize::from(width), rows * ROW_PIXELS);
    // The picture itself is the same for all levels and variants of a width.
    let mut picture = Random::new(seed, width as u64);
    let mut wave = |length: usize| -> Vec<i32> {
        let bend = 2 + picture.below(3);
        // A wave of parabolas: smooth, and exact in integers on every machine.
        let period = (length / bend).max(2);
        (0..length)
            .map(|i| {
                let at = (i % period) as i64 * 256 / period as i64 - 128;
                let sign = if (i / period).is_multiple_of(2) { 1 } else { -1 };
                (sign * (64 - at * at / 256)) as i32
            })
            .collect()
    };
    let across = [wave(width), wave(width), wave(width)];
    let down: Vec<[i32; 3]> = {
        let [red, green, blue] = [wave(height), wave(height), wave(height)];
        (0..height).map(|y| [red[y], green[y], blue[y]]).collect()
    };
    let mut random = Random::new(seed, stream | 1 << 40);
    let mut pixels = Vec::with_capacity(width * height * 3);
    for down in &down {
        let mut bits = 0;
        let levels: [i32; 3] = down.map(|wave| 128 + wave / 2);
        for x in 0..width {
            if x % 4 == 0 {
                bits = random.next();
            }
            // 0 to 65,535 becomes -noise to noise.
            let grain = (((bits & 0xffff) as i32 * (2 * noise + 1)) >> 16) - noise;
            bits >>= 16;
            for (level, across) in levels.iter().zip(&across) {
                pixels.push((level + across[x] + grain).clamp(0, 255) as u8);
            }
        }
    }
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.set_restart_interval(u16::try_from(width.div_ceil(ROW_PIXELS))?);
    encoder.encode(&pixels, u16::try_from(width)?, u16::try_from(height)?, ColorType::Rgb)?;
    Ok(jpeg)
}

/// Where the segment with `marker` begins in a header.
fn segment(jpeg: &[u8], marker: u8) -> Result<usize> {
    let mut at = 2;
    while at + 4 <= jpeg.len() {
        ensure!(jpeg[at] == 0xff, "no marker at {at}");
        if jpeg[at + 1] == marker {
            return Ok(at);
        }
        at += 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    }
    anyhow::bail!("no segment {marker:02x}")
}

/// Separates the header (up to and with the scan header) and the strips between the markers.
fn split(jpeg: &[u8]) -> Result<(Vec<u8>, Strips)> {
    let scan = segment(jpeg, 0xda)?;
    let data = scan + 2 + usize::from(u16::from_be_bytes([jpeg[scan + 2], jpeg[scan + 3]]));
    let mut strips = Vec::new();
    let mut start = data;
    let mut at = data;
    while at + 1 < jpeg.len() {
        let is_marker = jpeg[at] == 0xff && matches!(jpeg[at + 1], 0xd0..=0xd7 | 0xd9);
        if !is_marker {
            at += 1;
            continue;
        }
        if at > start {
            strips.push(jpeg[start..at].into());
        }
        at += 2;
        start = at;
    }
    Ok((jpeg[..data].to_vec(), strips))
}
