//! From a JPEG to a training sample: decode, random-resized crop, flip, normalise.
//!
//! libjpeg-turbo decodes straight to the smallest of its eighths from which the crop still fills the
//! sample (docs/decisions/003-jpeg-decoder.md has the figures). Deliberately absent: any leniency. A
//! damaged file is an error.

use anyhow::{Context, Result, ensure};
use turbojpeg::{Decompressor, Image, PixelFormat, ScalingFactor};

use crate::dataset::Random;

/// Width and height of a sample.
pub const SIDE: usize = 224;
/// Values in a sample.
pub const VALUES: usize = 3 * SIDE * SIDE;
/// ImageNet's mean and deviation of red, green and blue, on the scale of 0 to 255.
const MEAN: [f32; 3] = [0.485 * 255.0, 0.456 * 255.0, 0.406 * 255.0];
const DEVIATION: [f32; 3] = [0.229 * 255.0, 0.224 * 255.0, 0.225 * 255.0];

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Crop {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// A decoder with its buffer; one per thread.
#[derive(Debug)]
pub struct SampleDecoder {
    decoder: Decompressor,
    pixels: Vec<u8>,
}

impl SampleDecoder {
    /// A decoder.
    ///
    /// # Errors
    ///
    /// If memory is short.
    pub fn new() -> Result<Self> {
        Ok(Self { decoder: Decompressor::new()?, pixels: Vec::new() })
    }

    /// Decodes `jpeg` into `sample`: channels first, normalised.
    ///
    /// # Errors
    ///
    /// If it is no JPEG or damaged.
    pub fn decode(&mut self, jpeg: &[u8], random: &mut Random, sample: &mut [f32]) -> Result<()> {
        let header = self.decoder.read_header(jpeg).context("read the JPEG header")?;
        ensure!(header.width > 0 && header.height > 0, "the image is empty");
        let crop = random_crop(header.width, header.height, random);
        let scale = scale_for(crop);
        self.decoder.set_scaling_factor(scale)?;
        let (width, height) = (scale.scale(header.width), scale.scale(header.height));
        self.pixels.resize(width * height * 3, 0);
        let image = Image {
            pixels: &mut self.pixels[..],
            width,
            pitch: width * 3,
            height,
            format: PixelFormat::RGB,
        };
        self.decoder.decompress(jpeg, image).context("decode the JPEG")?;
        let factor = scale.num() as f64 / scale.denom() as f64;
        let crop = Crop {
            left: crop.left * factor,
            top: crop.top * factor,
            width: crop.width * factor,
            height: crop.height * factor,
        };
        resample(&self.pixels, (width, height), crop, random.below(2) == 1, sample);
        Ok(())
    }
}

/// torchvision's and DALI's rule: 8 to 100 % of the area, 3:4 to 4:3, ten tries, else the middle.
fn random_crop(width: usize, height: usize, random: &mut Random) -> Crop {
    let (width, height) = (width as f64, height as f64);
    for _ in 0..10 {
        let area = width * height * (0.08 + 0.92 * random.unit());
        // The logarithm of the ratio is uniform, so that wide and tall are equally likely.
        let ratio = (4.0_f64 / 3.0).powf(2.0 * random.unit() - 1.0);
        let (w, h) = ((area * ratio).sqrt(), (area / ratio).sqrt());
        if w <= width && h <= height {
            let (left, top) = ((width - w) * random.unit(), (height - h) * random.unit());
            return Crop { left, top, width: w, height: h };
        }
    }
    let side = width.min(height);
    Crop { left: (width - side) / 2.0, top: (height - side) / 2.0, width: side, height: side }
}

/// The smallest eighths that leave the crop at least as large as the sample.
fn scale_for(crop: Crop) -> ScalingFactor {
    let least = crop.width.min(crop.height);
    (1..8)
        .find(|eighths| least * *eighths as f64 / 8.0 >= SIDE as f64)
        .map_or(ScalingFactor::ONE, |eighths| ScalingFactor::new(eighths, 8))
}

/// Bilinear, with the crop's corners on the sample's corners.
fn resample(pixels: &[u8], size: (usize, usize), crop: Crop, mirror: bool, sample: &mut [f32]) {
    let axis = |start: f64, length: f64, limit: usize| -> Vec<(usize, usize, f32)> {
        (0..SIDE)
            .map(|i| {
                let at = (start + (i as f64 + 0.5) * length / SIDE as f64 - 0.5)
                    .clamp(0.0, (limit - 1) as f64);
                let low = at as usize;
                (low, (low + 1).min(limit - 1), (at - low as f64) as f32)
            })
            .collect()
    };
    let columns = axis(crop.left, crop.width, size.0);
    let rows = axis(crop.top, crop.height, size.1);
    for (y, &(top, bottom, down)) in rows.iter().enumerate() {
        let top = &pixels[top * size.0 * 3..][..size.0 * 3];
        let bottom = &pixels[bottom * size.0 * 3..][..size.0 * 3];
        for (x, &(left, right, across)) in columns.iter().enumerate() {
            let x = if mirror { SIDE - 1 - x } else { x };
            for channel in 0..3 {
                let value = |row: &[u8], column: usize| f32::from(row[column * 3 + channel]);
                let upper = value(top, left) + (value(top, right) - value(top, left)) * across;
                let lower =
                    value(bottom, left) + (value(bottom, right) - value(bottom, left)) * across;
                let mixed = upper + (lower - upper) * down;
                sample[(channel * SIDE + y) * SIDE + x] =
                    (mixed - MEAN[channel]) / DEVIATION[channel];
            }
        }
    }
}

/// Decodes a whole image without a crop and returns its width and height.
///
/// # Errors
///
/// If it is no JPEG or damaged.
pub fn verify(jpeg: &[u8]) -> Result<(usize, usize)> {
    let image = turbojpeg::decompress(jpeg, PixelFormat::RGB).context("decode the JPEG")?;
    Ok((image.width, image.height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_lie_inside_and_fill_the_sample() {
        let mut random = Random::new(1, 1);
        for _ in 0..1_000 {
            let (width, height) = (1 + random.below(900), 1 + random.below(900));
            let crop = random_crop(width, height, &mut random);
            assert!(crop.left >= 0.0 && crop.left + crop.width <= width as f64 + 1e-6);
            assert!(crop.top >= 0.0 && crop.top + crop.height <= height as f64 + 1e-6);
            let scale = scale_for(crop);
            let least = crop.width.min(crop.height);
            let scaled = least * scale.num() as f64 / scale.denom() as f64;
            assert!(scaled >= SIDE as f64 || scale == ScalingFactor::ONE);
        }
    }

    #[test]
    fn a_grey_image_is_normalised_to_its_grey() {
        let mut jpeg = Vec::new();
        jpeg_encoder::Encoder::new(&mut jpeg, 95)
            .encode(&[128; 300 * 260 * 3], 300, 260, jpeg_encoder::ColorType::Rgb)
            .expect("encodes");
        let mut sample = vec![0.0; VALUES];
        let mut decoder = SampleDecoder::new().expect("decoder");
        decoder.decode(&jpeg, &mut Random::new(1, 2), &mut sample).expect("decodes");
        for (channel, values) in sample.chunks(SIDE * SIDE).enumerate() {
            let expected = (128.0 - MEAN[channel]) / DEVIATION[channel];
            assert!(values.iter().all(|value| (value - expected).abs() < 0.03));
        }
        jpeg.truncate(jpeg.len() / 2);
        assert!(decoder.decode(&jpeg[..20], &mut Random::new(1, 2), &mut sample).is_err());
    }
}
