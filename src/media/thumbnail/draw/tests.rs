use std::fs;

use image::{Delay, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;
use crate::media::ThumbnailRequest;

fn shape(width: u64, height: u64) -> ThumbnailShape {
    ThumbnailShape::for_request(ThumbnailRequest::new(width, height, None).unwrap())
}

/// Returns an image whose left half is red and whose right half is blue.
fn two_halves(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| {
        if x < width / 2 {
            Rgb([255, 0, 0])
        } else {
            Rgb([0, 0, 255])
        }
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn animated_gif(width: u32, height: u32, frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut gif = GifEncoder::new_with_speed(&mut bytes, 30);
    for shade in (0..12).cycle().take(frames) {
        let image = RgbaImage::from_pixel(width, height, Rgba([shade * 20, 0, 0, 255]));
        let delay = Delay::from_numer_denom_ms(100, 1);
        gif.encode_frame(Frame::from_parts(image, 0, 0, delay))
            .unwrap();
    }
    drop(gif);
    bytes
}

fn thumbnail_of(
    bytes: &[u8],
    shape: ThumbnailShape,
    motion: ThumbnailMotion,
) -> Result<ThumbnailImage> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, bytes).unwrap();
    make_thumbnail(&path, shape, motion)
}

#[track_caller]
fn expect_new(drawn: Result<ThumbnailImage>) -> (DynamicImage, &'static str, Vec<u8>) {
    match drawn {
        Ok(ThumbnailImage::New {
            image,
            content_type,
        }) => {
            let decoded = image::load_from_memory(&image).unwrap();
            (decoded, content_type, image)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_format_becomes_one_that_clients_display() {
    let image = DynamicImage::from(two_halves(640, 480));
    for (format, expected) in [
        (ImageFormat::Png, "image/png"),
        (ImageFormat::Jpeg, "image/jpeg"),
        (ImageFormat::Gif, "image/png"),
        (ImageFormat::WebP, "image/jpeg"),
    ] {
        let bytes = encoded(&image, format);

        let (small, content_type, _) = expect_new(thumbnail_of(
            &bytes,
            shape(320, 240),
            ThumbnailMotion::Still,
        ));

        assert_eq!(content_type, expected, "{format:?}");
        assert_eq!((small.width(), small.height()), (320, 240), "{format:?}");
        let (left, right) = (small.to_rgb8()[(10, 10)], small.to_rgb8()[(310, 10)]);
        assert!(left[0] > 200 && left[2] < 50, "{format:?}: {left:?}");
        assert!(right[2] > 200 && right[0] < 50, "{format:?}: {right:?}");
    }
}

#[test]
fn transparency_is_preserved() {
    let image = RgbaImage::from_pixel(640, 480, Rgba([0, 255, 0, 0]));
    let bytes = encoded(&image.into(), ImageFormat::WebP);

    let (small, content_type, _) =
        expect_new(thumbnail_of(&bytes, shape(32, 32), ThumbnailMotion::Still));

    assert_eq!(content_type, "image/png");
    assert_eq!(small.to_rgba8()[(5, 5)][3], 0);
}

#[test]
fn a_large_image_is_reduced_in_two_steps() {
    let bytes = encoded(&two_halves(4000, 3000).into(), ImageFormat::Png);

    let (small, _, _) = expect_new(thumbnail_of(
        &bytes,
        shape(320, 240),
        ThumbnailMotion::Still,
    ));

    assert_eq!((small.width(), small.height()), (320, 240));
    assert_eq!(small.to_rgb8()[(10, 10)], Rgb([255, 0, 0]));
}

#[test]
fn a_small_image_is_its_own_thumbnail() {
    let bytes = encoded(&two_halves(320, 200).into(), ImageFormat::Png);

    let small = thumbnail_of(&bytes, shape(320, 240), ThumbnailMotion::Still).unwrap();
    let whole = thumbnail_of(&bytes, shape(9000, 9000), ThumbnailMotion::Animated).unwrap();

    assert_eq!(small, ThumbnailImage::Original("image/png"));
    assert_eq!(whole, ThumbnailImage::Original("image/png"));
}

#[test]
fn animated_images_become_still_unless_animation_is_allowed() {
    let bytes = animated_gif(640, 480, 3);

    let still = expect_new(thumbnail_of(
        &bytes,
        shape(320, 240),
        ThumbnailMotion::Still,
    ));
    let moving = expect_new(thumbnail_of(
        &bytes,
        shape(320, 240),
        ThumbnailMotion::Animated,
    ));

    assert_eq!(still.1, "image/png");
    assert_eq!(moving.1, "image/gif");
    let frames = GifDecoder::new(io::Cursor::new(moving.2)).unwrap();
    let frames = frames.into_frames().collect_frames().unwrap();
    assert_eq!(frames.len(), 3);
    assert_eq!(frames[0].buffer().dimensions(), (320, 240));
    assert_eq!(frames[0].delay(), Delay::from_numer_denom_ms(100, 1));
}

#[test]
fn a_small_animation_is_unchanged_only_if_animation_is_allowed() {
    let bytes = animated_gif(100, 50, 2);

    let moving = thumbnail_of(&bytes, shape(320, 240), ThumbnailMotion::Animated).unwrap();
    let (still, content_type, _) = expect_new(thumbnail_of(
        &bytes,
        shape(320, 240),
        ThumbnailMotion::Still,
    ));

    assert_eq!(moving, ThumbnailImage::Original("image/gif"));
    assert_eq!(content_type, "image/png");
    assert_eq!((still.width(), still.height()), (100, 50));
}

#[test]
fn a_too_long_animation_becomes_a_still_image() {
    let bytes = animated_gif(40, 40, MAX_FRAMES + 1);
    let crop = ThumbnailShape::Crop(ImageSize::new(32, 32));

    let (_, content_type, _) = expect_new(thumbnail_of(&bytes, crop, ThumbnailMotion::Animated));

    assert_eq!(content_type, "image/png");
}

#[test]
fn an_image_with_too_many_pixels_is_not_decoded() {
    // The header of a PNG of 30,000 by 30,000 pixels, and nothing after it.
    let mut bytes = encoded(&two_halves(2, 2).into(), ImageFormat::Png);
    bytes[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());

    let refused = thumbnail_of(&bytes, shape(32, 32), ThumbnailMotion::Still);

    assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
}

#[test]
fn a_too_large_file_is_refused_without_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let file = File::create(&path).unwrap();
    file.set_len(MAX_FILE_BYTES + 1).unwrap();

    let refused = make_thumbnail(&path, shape(32, 32), ThumbnailMotion::Still);

    assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
}

#[test]
fn a_file_that_is_no_image_is_refused() {
    let png = encoded(&two_halves(640, 480).into(), ImageFormat::Png);
    let svg = br#"<svg xmlns="http://www.w3.org/2000/svg"/>"#;
    for bytes in [&b""[..], b"GIF89a", svg, b"\x89PNG\r\n\x1a\n", &png[..100]] {
        let refused = thumbnail_of(bytes, shape(32, 32), ThumbnailMotion::Still);

        assert!(
            matches!(
                refused,
                Err(Error::Refused {
                    code: RefusalCode::CannotThumbnail,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Returns a PNG whose colour profile has `bytes` arbitrary bytes.
fn png_with_profile(bytes: usize) -> Vec<u8> {
    let mut png = encoded(&two_halves(4, 4).into(), ImageFormat::Png);
    let after_header = 8 + 25;
    let mut chunk = u32::try_from(bytes).unwrap().to_be_bytes().to_vec();
    chunk.extend_from_slice(b"iCCP");
    chunk.resize(chunk.len() + bytes + 4, 0);
    png.splice(after_header..after_header, chunk);
    png
}

#[test]
fn a_png_with_a_large_colour_profile_is_refused() {
    let small = png_with_profile(64 * 1024);
    let large = png_with_profile(64 * 1024 + 1);

    check_png_profile(io::Cursor::new(small)).unwrap();
    let refused = thumbnail_of(&large, shape(2, 2), ThumbnailMotion::Still);
    assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
    let odd = &large[..20];
    check_png_profile(io::Cursor::new(odd)).unwrap();
}
