use std::fs;

use image::{Delay, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;
use crate::media::Wanted;

fn shape(width: u64, height: u64) -> Shape {
    Shape::of(Wanted::new(width, height, None).unwrap())
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

fn bytes_of(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn moving_gif(width: u32, height: u32, frames: usize) -> Vec<u8> {
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

fn drawn(bytes: &[u8], shape: Shape, motion: Motion) -> Result<Drawn> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, bytes).unwrap();
    draw(&path, shape, motion)
}

#[track_caller]
fn expect_anew(drawn: Result<Drawn>) -> (DynamicImage, &'static str, Vec<u8>) {
    match drawn {
        Ok(Drawn::Anew {
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
fn each_format_becomes_one_that_clients_show() {
    let image = DynamicImage::from(two_halves(640, 480));
    for (format, expected) in [
        (ImageFormat::Png, "image/png"),
        (ImageFormat::Jpeg, "image/jpeg"),
        (ImageFormat::Gif, "image/png"),
        (ImageFormat::WebP, "image/jpeg"),
    ] {
        let bytes = bytes_of(&image, format);

        let (small, content_type, _) = expect_anew(drawn(&bytes, shape(320, 240), Motion::Still));

        assert_eq!(content_type, expected, "{format:?}");
        assert_eq!((small.width(), small.height()), (320, 240), "{format:?}");
        let (left, right) = (small.to_rgb8()[(10, 10)], small.to_rgb8()[(310, 10)]);
        assert!(left[0] > 200 && left[2] < 50, "{format:?}: {left:?}");
        assert!(right[2] > 200 && right[0] < 50, "{format:?}: {right:?}");
    }
}

#[test]
fn what_can_be_seen_through_stays_so() {
    let image = RgbaImage::from_pixel(640, 480, Rgba([0, 255, 0, 0]));
    let bytes = bytes_of(&image.into(), ImageFormat::WebP);

    let (small, content_type, _) = expect_anew(drawn(&bytes, shape(32, 32), Motion::Still));

    assert_eq!(content_type, "image/png");
    assert_eq!(small.to_rgba8()[(5, 5)][3], 0);
}

#[test]
fn a_large_image_is_brought_down_in_two_steps() {
    let bytes = bytes_of(&two_halves(4000, 3000).into(), ImageFormat::Png);

    let (small, _, _) = expect_anew(drawn(&bytes, shape(320, 240), Motion::Still));

    assert_eq!((small.width(), small.height()), (320, 240));
    assert_eq!(small.to_rgb8()[(10, 10)], Rgb([255, 0, 0]));
}

#[test]
fn an_image_that_is_small_already_serves_as_it_is() {
    let bytes = bytes_of(&two_halves(320, 200).into(), ImageFormat::Png);

    let small = drawn(&bytes, shape(320, 240), Motion::Still).unwrap();
    let whole = drawn(&bytes, shape(9000, 9000), Motion::Animated).unwrap();

    assert_eq!(small, Drawn::Original("image/png"));
    assert_eq!(whole, Drawn::Original("image/png"));
}

#[test]
fn what_moves_stands_still_unless_it_may_move() {
    let bytes = moving_gif(640, 480, 3);

    let still = expect_anew(drawn(&bytes, shape(320, 240), Motion::Still));
    let moving = expect_anew(drawn(&bytes, shape(320, 240), Motion::Animated));

    assert_eq!(still.1, "image/png");
    assert_eq!(moving.1, "image/gif");
    let frames = GifDecoder::new(io::Cursor::new(moving.2)).unwrap();
    let frames = frames.into_frames().collect_frames().unwrap();
    assert_eq!(frames.len(), 3);
    assert_eq!(frames[0].buffer().dimensions(), (320, 240));
    assert_eq!(frames[0].delay(), Delay::from_numer_denom_ms(100, 1));
}

#[test]
fn a_small_image_that_moves_serves_as_it_is_only_where_it_may_move() {
    let bytes = moving_gif(100, 50, 2);

    let moving = drawn(&bytes, shape(320, 240), Motion::Animated).unwrap();
    let (still, content_type, _) = expect_anew(drawn(&bytes, shape(320, 240), Motion::Still));

    assert_eq!(moving, Drawn::Original("image/gif"));
    assert_eq!(content_type, "image/png");
    assert_eq!((still.width(), still.height()), (100, 50));
}

#[test]
fn what_moves_for_too_long_stands_still() {
    let bytes = moving_gif(40, 40, MAX_FRAMES + 1);
    let crop = Shape::Crop(Size::new(32, 32));

    let (_, content_type, _) = expect_anew(drawn(&bytes, crop, Motion::Animated));

    assert_eq!(content_type, "image/png");
}

#[test]
fn an_image_that_swells_is_refused_before_it_is_decoded() {
    // The header of a PNG of 30,000 by 30,000 pixels, and nothing after it.
    let mut bytes = bytes_of(&two_halves(2, 2).into(), ImageFormat::Png);
    bytes[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());

    let refused = drawn(&bytes, shape(32, 32), Motion::Still);

    assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
}

#[test]
fn a_large_file_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let file = File::create(&path).unwrap();
    file.set_len(MAX_FILE + 1).unwrap();

    let refused = draw(&path, shape(32, 32), Motion::Still);

    assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
}

#[test]
fn what_is_no_image_has_no_thumbnail() {
    let png = bytes_of(&two_halves(640, 480).into(), ImageFormat::Png);
    let svg = br#"<svg xmlns="http://www.w3.org/2000/svg"/>"#;
    for bytes in [&b""[..], b"GIF89a", svg, b"\x89PNG\r\n\x1a\n", &png[..100]] {
        let refused = drawn(bytes, shape(32, 32), Motion::Still);

        assert!(
            matches!(refused, Err(Error::CannotThumbnail(_))),
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
    let mut png = bytes_of(&two_halves(4, 4).into(), ImageFormat::Png);
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
    let refused = drawn(&large, shape(2, 2), Motion::Still);
    assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
    let odd = &large[..20];
    check_png_profile(io::Cursor::new(odd)).unwrap();
}
