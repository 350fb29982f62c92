//! The sizes of thumbnails. There are only a few, so that a client cannot have a thousand made of one image.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#thumbnails).

use ruma::media::Method;

/// The squares for avatars. The first two are from the specification, the others are for high-resolution screens.
const CROP_SIZES: [ImageSize; 4] = [
    ImageSize::new(32, 32),
    ImageSize::new(96, 96),
    ImageSize::new(320, 320),
    ImageSize::new(640, 640),
];
/// The boxes that an image must fit into. The last one is for high-resolution screens.
const SCALE_SIZES: [ImageSize; 4] = [
    ImageSize::new(320, 240),
    ImageSize::new(640, 480),
    ImageSize::new(800, 600),
    MAX_THUMBNAIL_SIZE,
];
/// The largest image that is made if the original cannot be served.
const MAX_THUMBNAIL_SIZE: ImageSize = ImageSize::new(1600, 1200);

/// The size of an image in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageSize {
    pub(super) width: u32,
    pub(super) height: u32,
}

/// The thumbnail that a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThumbnailRequest {
    width: u32,
    height: u32,
    crop: bool,
    pub(super) animated: bool,
}

/// The size and method of a thumbnail, out of the few that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThumbnailShape {
    /// Fills the box; the overlapping parts are cut off.
    Crop(ImageSize),
    /// Fits into the box.
    Scale(ImageSize),
    /// As large as the original, because every box is too small.
    Whole,
}

/// The part of an image to use, and its new size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageCut {
    /// The size of the part, from the middle of the image.
    pub(super) source_size: ImageSize,
    /// The new size of the part, which is never enlarged.
    pub(super) scaled_to: ImageSize,
}

impl ThumbnailRequest {
    /// Reads a request for a still image; `None` if it is invalid.
    pub fn new(width: u64, height: u64, method: Option<&Method>) -> Option<Self> {
        let crop = match method {
            Some(Method::Crop) => true,
            Some(Method::Scale) | None => false,
            Some(_) => return None,
        };
        (width > 0 && height > 0).then(|| Self {
            width: u32::try_from(width).unwrap_or(u32::MAX),
            height: u32::try_from(height).unwrap_or(u32::MAX),
            crop,
            animated: false,
        })
    }

    /// "When not provided, the server SHOULD NOT return an animated thumbnail."
    #[must_use]
    pub fn with_animation(self, animated: Option<bool>) -> Self {
        Self {
            animated: animated.unwrap_or(false),
            ..self
        }
    }
}

impl ImageSize {
    pub(super) const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Returns whether an image of this size fits into the box.
    fn fits(self, bounds: Self) -> bool {
        self.width <= bounds.width && self.height <= bounds.height
    }

    /// Returns whether this size is wider than the other in proportion to its height.
    fn is_wider(self, other: Self) -> bool {
        u64::from(self.width) * u64::from(other.height)
            > u64::from(other.width) * u64::from(self.height)
    }
}

impl ThumbnailShape {
    /// "Servers must never return thumbnails smaller than the client's requested dimensions": returns the next larger
    /// size.
    pub(super) fn for_request(wanted: ThumbnailRequest) -> Self {
        let size = ImageSize::new(wanted.width, wanted.height);
        let next = |boxes: &[ImageSize]| boxes.iter().copied().find(|bounds| size.fits(*bounds));
        if wanted.crop {
            next(&CROP_SIZES).map_or(Self::Whole, Self::Crop)
        } else {
            next(&SCALE_SIZES).map_or(Self::Whole, Self::Scale)
        }
    }

    /// Returns the name of the method and the box, as stored in the database.
    pub(super) fn database_key(self) -> (&'static str, ImageSize) {
        match self {
            Self::Crop(size) => ("crop", size),
            Self::Scale(size) => ("scale", size),
            Self::Whole => ("whole", ImageSize::new(0, 0)),
        }
    }

    /// Returns the cut of an image; `None` if the image can serve unchanged.
    ///
    /// "Servers MUST NOT upscale thumbnails under any circumstance."
    pub(super) fn cut_of(self, image: ImageSize) -> Option<ImageCut> {
        match self {
            Self::Whole => None,
            Self::Crop(bounds) | Self::Scale(bounds) if image.fits(bounds) => None,
            Self::Crop(bounds) => Some(crop_cut(image, bounds)),
            Self::Scale(bounds) => Some(scale_cut(image, bounds)),
        }
    }
}

impl ImageCut {
    /// Returns the cut of an image that must be encoded again, although it fits into every box.
    pub(super) fn whole_image(image: ImageSize) -> Self {
        ThumbnailShape::Scale(MAX_THUMBNAIL_SIZE)
            .cut_of(image)
            .unwrap_or(Self {
                source_size: image,
                scaled_to: image,
            })
    }
}

/// Scales an image. "Scale" keeps the aspect ratio.
fn scale_cut(image: ImageSize, bounds: ImageSize) -> ImageCut {
    let scaled_to = if image.is_wider(bounds) {
        let height = scale_side(image.height, bounds.width, image.width);
        ImageSize::new(bounds.width, height)
    } else {
        let width = scale_side(image.width, bounds.height, image.height);
        ImageSize::new(width, bounds.height)
    };
    ImageCut {
        source_size: image,
        scaled_to,
    }
}

/// Crops an image to the aspect ratio of the box, unless it is too small for that in one direction.
fn crop_cut(image: ImageSize, bounds: ImageSize) -> ImageCut {
    if image.width <= bounds.width || image.height <= bounds.height {
        let take = ImageSize::new(
            image.width.min(bounds.width),
            image.height.min(bounds.height),
        );
        return ImageCut {
            source_size: take,
            scaled_to: take,
        };
    }
    let take = if image.is_wider(bounds) {
        ImageSize::new(
            scale_side(image.height, bounds.width, bounds.height),
            image.height,
        )
    } else {
        ImageSize::new(
            image.width,
            scale_side(image.width, bounds.height, bounds.width),
        )
    };
    ImageCut {
        source_size: take,
        scaled_to: bounds,
    }
}

/// Returns `side * numerator / denominator`, rounded, and at least one pixel.
fn scale_side(side: u32, numerator: u32, denominator: u32) -> u32 {
    let (side, numerator) = (u64::from(side), u64::from(numerator));
    let denominator = u64::from(denominator).max(1);
    let pixels = (side * numerator + denominator / 2) / denominator;
    u32::try_from(pixels.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(width: u64, height: u64, method: &Method) -> (&'static str, u32, u32) {
        let wanted = ThumbnailRequest::new(width, height, Some(method)).unwrap();
        let (name, size) = ThumbnailShape::for_request(wanted).database_key();
        (name, size.width, size.height)
    }

    fn cut(shape: ThumbnailShape, width: u32, height: u32) -> Option<((u32, u32), (u32, u32))> {
        let pair = |size: ImageSize| (size.width, size.height);
        let cut = shape.cut_of(ImageSize::new(width, height))?;
        Some((pair(cut.source_size), pair(cut.scaled_to)))
    }

    #[test]
    fn the_next_larger_size_is_made() {
        assert_eq!(shape(1, 1, &Method::Crop), ("crop", 32, 32));
        assert_eq!(shape(33, 20, &Method::Crop), ("crop", 96, 96));
        assert_eq!(shape(32, 32, &Method::Scale), ("scale", 320, 240));
        assert_eq!(shape(320, 240, &Method::Scale), ("scale", 320, 240));
        assert_eq!(shape(320, 241, &Method::Scale), ("scale", 640, 480));
        assert_eq!(shape(800, 600, &Method::Scale), ("scale", 800, 600));
        assert_eq!(shape(1601, 1, &Method::Scale), ("whole", 0, 0));
        assert_eq!(shape(u64::MAX, 1, &Method::Crop), ("whole", 0, 0));
    }

    #[test]
    fn empty_sizes_and_unknown_methods_are_invalid() {
        assert_eq!(ThumbnailRequest::new(0, 10, None), None);
        assert_eq!(ThumbnailRequest::new(10, 0, None), None);
        assert_eq!(
            ThumbnailRequest::new(10, 10, Some(&Method::from("stretch"))),
            None
        );
    }

    #[test]
    fn scaling_keeps_the_aspect_ratio_within_the_box() {
        let bounds = ThumbnailShape::Scale(ImageSize::new(320, 240));

        assert_eq!(cut(bounds, 640, 480), Some(((640, 480), (320, 240))));
        assert_eq!(cut(bounds, 1000, 100), Some(((1000, 100), (320, 32))));
        assert_eq!(cut(bounds, 100, 1000), Some(((100, 1000), (24, 240))));
        assert_eq!(cut(bounds, 30_000, 1), Some(((30_000, 1), (320, 1))));
    }

    #[test]
    fn cropping_fills_the_box_from_the_middle() {
        let bounds = ThumbnailShape::Crop(ImageSize::new(96, 96));

        assert_eq!(cut(bounds, 400, 200), Some(((200, 200), (96, 96))));
        assert_eq!(cut(bounds, 200, 400), Some(((200, 200), (96, 96))));
    }

    #[test]
    fn no_image_is_ever_enlarged() {
        let (crop, scale) = (
            ThumbnailShape::Crop(ImageSize::new(96, 96)),
            ThumbnailShape::Scale(ImageSize::new(320, 240)),
        );

        assert_eq!(cut(crop, 96, 96), None);
        assert_eq!(cut(scale, 320, 240), None);
        assert_eq!(cut(crop, 1000, 20), Some(((96, 20), (96, 20))));
        assert_eq!(cut(ThumbnailShape::Whole, 5000, 5000), None);
    }
}
