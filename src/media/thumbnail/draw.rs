//! Making a thumbnail. This code blocks. Everything that a malicious file could inflate is limited before it is read.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::Path,
};

use image::{
    AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder, ImageError, ImageFormat,
    ImageReader, ImageResult, Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        png::PngDecoder,
        webp::WebPDecoder,
    },
    imageops::FilterType,
    metadata::Orientation,
};

use super::size::{ImageCut, ImageSize, ThumbnailShape};
use crate::error::{Error, RefusalCode, Result};

/// The largest file that is read, in bytes: a decoder may hold all of it in memory.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// The largest size of a decoded image in memory, in bytes: 40 million pixels of four bytes.
const MAX_DECODED_BYTES: u64 = 160 * 1024 * 1024;
/// The largest compressed colour profile of a PNG, in bytes. Decoders inflate it without a limit, up to a thousand
/// times its size. Typical profiles have a few KiB.
const MAX_PNG_PROFILE_BYTES: u32 = 64 * 1024;
/// The longest side of an image, in pixels.
const MAX_SIDE_PIXELS: u32 = 32_768;
/// The number of frames, and of their pixels, that are decoded for an animated thumbnail.
const MAX_FRAMES: usize = 300;
const MAX_ANIMATED_PIXELS: u64 = 30_000_000;
/// The largest animated thumbnail, in bytes. A larger one is replaced by a still image.
const MAX_ANIMATED_BYTES: usize = 8 * 1024 * 1024;
/// Between 1 (best quality) and 30 (fastest).
const GIF_SPEED: i32 = 10;
/// Out of 100; a higher quality is not visible at these sizes.
const JPEG_QUALITY: u8 = 85;
/// The multiple of its final size to which a large image is first reduced by a rough but fast method.
const ROUGH_SCALE_FACTOR: u32 = 3;

/// Whether a thumbnail may be animated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThumbnailMotion {
    Still,
    Animated,
}

/// The result of making a thumbnail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ThumbnailImage {
    /// The original image serves as the thumbnail; it has this content type.
    Original(&'static str),
    /// A new image.
    New {
        image: Vec<u8>,
        content_type: &'static str,
    },
}

type FileImageReader = ImageReader<BufReader<File>>;

/// Makes a thumbnail of the image in a file.
///
/// # Errors
///
/// [`Error::TooLarge`] and `RefusalCode::CannotThumbnail`.
pub(super) fn make_thumbnail(
    path: &Path,
    shape: ThumbnailShape,
    motion: ThumbnailMotion,
) -> Result<ThumbnailImage> {
    let (reader, format) = open_image(path)?;
    let moves = is_animated(path, format)?;
    let mut decoder = reader.into_decoder().map_err(decode_error)?;
    check_dimensions(&decoder)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let size = oriented_size(&decoder, orientation);
    let cut = match (shape.cut_of(size), moves, motion) {
        (None, false, _) | (None, true, ThumbnailMotion::Animated) => {
            return Ok(ThumbnailImage::Original(format.to_mime_type()));
        }
        (None, true, ThumbnailMotion::Still) => ImageCut::whole_image(size),
        (Some(cut), ..) => cut,
    };
    if moves
        && motion == ThumbnailMotion::Animated
        && let Some(image) = make_animated(path, format, cut)
    {
        return Ok(new_image(image, ImageFormat::Gif));
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(decode_error)?;
    image.apply_orientation(orientation);
    encode(&resize(image, cut), format).map_err(decode_error)
}

fn open_image(path: &Path) -> Result<(FileImageReader, ImageFormat)> {
    let unreadable = |source| Error::internal("read an image", source);
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(too_large());
    }
    let reader = ImageReader::new(BufReader::new(file));
    let mut reader = reader.with_guessed_format().map_err(unreadable)?;
    reader.limits(decoder_limits());
    match reader.format() {
        // The formats that clients display, and that may be served inline.
        Some(
            format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Gif | ImageFormat::WebP),
        ) => {
            if format == ImageFormat::Png {
                check_png_profile(open_buffered(path)?)?;
            }
            Ok((reader, format))
        }
        _ => Err(cannot_thumbnail()),
    }
}

/// Refuses a PNG with a large colour profile. Other malformed data is left to the decoder.
///
/// [Chunk layout](https://www.w3.org/TR/png-3/#5Chunk-layout)
fn check_png_profile(mut file: impl Read + Seek) -> Result<()> {
    const SIGNATURE_BYTES: u64 = 8;
    const CHECKSUM_BYTES: i64 = 4;
    if file.seek(SeekFrom::Start(SIGNATURE_BYTES)).is_err() {
        return Ok(());
    }
    let mut next_chunk = || -> io::Result<(u32, [u8; 4])> {
        let (mut length, mut kind) = ([0; 4], [0; 4]);
        file.read_exact(&mut length)?;
        file.read_exact(&mut kind)?;
        let length = u32::from_be_bytes(length);
        file.seek_relative(i64::from(length) + CHECKSUM_BYTES)?;
        Ok((length, kind))
    };
    while let Ok((length, kind)) = next_chunk() {
        match &kind {
            b"iCCP" if length > MAX_PNG_PROFILE_BYTES => return Err(too_large()),
            // A profile precedes the pixels.
            b"IDAT" => break,
            _ => {}
        }
    }
    Ok(())
}

fn decoder_limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE_PIXELS);
    limits.max_image_height = Some(MAX_SIDE_PIXELS);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    limits
}

/// Refuses an oversized image before its pixels are decoded.
fn check_dimensions(decoder: &impl ImageDecoder) -> Result<()> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(cannot_thumbnail());
    }
    let is_small = width <= MAX_SIDE_PIXELS && height <= MAX_SIDE_PIXELS;
    if is_small && decoder.total_bytes() <= MAX_DECODED_BYTES {
        Ok(())
    } else {
        Err(too_large())
    }
}

/// Returns whether the image may be animated. For a GIF that is only known after decoding.
fn is_animated(path: &Path, format: ImageFormat) -> Result<bool> {
    let animated = match format {
        ImageFormat::Gif => Ok(true),
        ImageFormat::WebP => {
            WebPDecoder::new(open_buffered(path)?).map(|webp| webp.has_animation())
        }
        ImageFormat::Png => PngDecoder::with_limits(open_buffered(path)?, decoder_limits())
            .and_then(|png| png.is_apng()),
        _ => Ok(false),
    };
    animated.map_err(decode_error)
}

fn open_buffered(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(|source| Error::internal("read an image", source))?;
    Ok(BufReader::new(file))
}

/// Returns the size of an image in its intended orientation.
fn oriented_size(decoder: &impl ImageDecoder, orientation: Orientation) -> ImageSize {
    let (width, height) = decoder.dimensions();
    match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => ImageSize::new(height, width),
        _ => ImageSize::new(width, height),
    }
}

/// Consumes the image, so that at most two copies of its size are in memory at the same time.
fn resize(mut image: DynamicImage, cut: ImageCut) -> DynamicImage {
    let (take, to) = (cut.source_size, cut.scaled_to);
    if (image.width(), image.height()) != (take.width, take.height) {
        let left = image.width().saturating_sub(take.width) / 2;
        let top = image.height().saturating_sub(take.height) / 2;
        image = image.crop_imm(left, top, take.width, take.height);
    }
    let (rough_width, rough_height) = (
        to.width.saturating_mul(ROUGH_SCALE_FACTOR),
        to.height.saturating_mul(ROUGH_SCALE_FACTOR),
    );
    if take.width > rough_width && take.height > rough_height {
        image = image.thumbnail_exact(rough_width, rough_height);
    }
    if (image.width(), image.height()) == (to.width, to.height) {
        return image;
    }
    image.resize_exact(to.width, to.height, FilterType::CatmullRom)
}

/// Encodes an opaque photograph as a JPEG, and all other images as a PNG.
fn encode(image: &DynamicImage, original: ImageFormat) -> ImageResult<ThumbnailImage> {
    let mut output = Vec::new();
    let is_photograph = matches!(original, ImageFormat::Jpeg | ImageFormat::WebP);
    if is_photograph && !image.color().has_alpha() {
        image
            .to_rgb8()
            .write_with_encoder(JpegEncoder::new_with_quality(&mut output, JPEG_QUALITY))?;
        return Ok(new_image(output, ImageFormat::Jpeg));
    }
    let mut cursor = io::Cursor::new(&mut output);
    if image.color().has_alpha() {
        image.to_rgba8().write_to(&mut cursor, ImageFormat::Png)?;
    } else {
        image.to_rgb8().write_to(&mut cursor, ImageFormat::Png)?;
    }
    Ok(new_image(output, ImageFormat::Png))
}

fn new_image(image: Vec<u8>, format: ImageFormat) -> ThumbnailImage {
    ThumbnailImage::New {
        image,
        content_type: format.to_mime_type(),
    }
}

/// Makes an animated GIF; `None` when it would exceed the limits, or a frame is damaged.
fn make_animated(path: &Path, format: ImageFormat, cut: ImageCut) -> Option<Vec<u8>> {
    match try_make_animated(path, format, cut) {
        Ok(image) => image,
        Err(error) => {
            tracing::debug!(%error, "a thumbnail could not be animated");
            None
        }
    }
}

fn try_make_animated(path: &Path, format: ImageFormat, cut: ImageCut) -> Result<Option<Vec<u8>>> {
    let frames = decode_frames(path, format)?;
    let mut output = Vec::new();
    let bounded = BoundedWriter(&mut output);
    let mut gif = GifEncoder::new_with_speed(bounded, GIF_SPEED);
    gif.set_repeat(Repeat::Infinite).map_err(decode_error)?;
    let mut pixels = 0_u64;
    for (count, frame) in frames.enumerate() {
        let frame = frame.map_err(decode_error)?;
        let (width, height) = frame.buffer().dimensions();
        pixels = pixels.saturating_add(u64::from(width) * u64::from(height));
        if count >= MAX_FRAMES || pixels > MAX_ANIMATED_PIXELS {
            return Ok(None);
        }
        let delay = frame.delay();
        let image = resize(DynamicImage::from(frame.into_buffer()), cut).into_rgba8();
        gif.encode_frame(Frame::from_parts(image, 0, 0, delay))
            .map_err(decode_error)?;
    }
    drop(gif);
    Ok(Some(output))
}

fn decode_frames(path: &Path, format: ImageFormat) -> Result<Frames<'static>> {
    let input = open_buffered(path)?;
    let frames = match format {
        ImageFormat::Gif => GifDecoder::new(input).and_then(|mut gif| {
            gif.set_limits(decoder_limits())?;
            Ok(gif.into_frames())
        }),
        ImageFormat::WebP => WebPDecoder::new(input).and_then(|mut webp| {
            webp.set_limits(decoder_limits())?;
            Ok(webp.into_frames())
        }),
        _ => PngDecoder::with_limits(input, decoder_limits())
            .and_then(PngDecoder::apng)
            .map(AnimationDecoder::into_frames),
    };
    frames.map_err(decode_error)
}

/// A writer that refuses more than the size limit of an animated thumbnail.
struct BoundedWriter<'a>(&'a mut Vec<u8>);

impl Write for BoundedWriter<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.0.len().saturating_add(part.len()) > MAX_ANIMATED_BYTES {
            return Err(io::Error::other("the thumbnail is too large"));
        }
        self.0.write(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn decode_error(error: ImageError) -> Error {
    match error {
        ImageError::Limits(_) => too_large(),
        error => {
            tracing::debug!(%error, "an image could not be decoded");
            cannot_thumbnail()
        }
    }
}

fn too_large() -> Error {
    Error::TooLarge("the image is too large to make a thumbnail of it".to_owned())
}

fn cannot_thumbnail() -> Error {
    Error::refused(
        RefusalCode::CannotThumbnail,
        "cannot make a thumbnail of this content".to_owned(),
    )
}

#[cfg(test)]
mod tests;
