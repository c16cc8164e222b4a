use image::ImageFormat;

use super::*;

const SMALL: Size = Size { height: 2, width: 3 };

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Every pixel another colour.
fn colourful(size: Size) -> DynamicImage {
    DynamicImage::ImageRgb8(RgbImage::from_fn(size.width, size.height, |x, y| {
        image::Rgb([(x * 40 % 256) as u8, (y * 70 % 256) as u8, ((x + y) * 20 % 256) as u8])
    }))
}

#[test]
fn a_png_of_the_right_size_gives_its_own_pixels() {
    let picture = colourful(SMALL);
    let found = from_file(&encoded(&picture, ImageFormat::Png), SMALL, Channels::Rgb).unwrap();
    assert_eq!(found, picture.as_bytes());
}

#[test]
fn grey_is_itu_601_and_colour_of_grey_repeats_it() {
    let size = Size { height: 1, width: 4 };
    let pixels = [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255];
    assert_eq!(from_pixels(&pixels, size, 3, size, Channels::Grey).unwrap(), [76, 150, 29, 255]);
    assert_eq!(
        from_pixels(&[1, 2, 3, 4], size, 1, size, Channels::Rgba).unwrap(),
        [1, 1, 1, 255, 2, 2, 2, 255, 3, 3, 3, 255, 4, 4, 4, 255]
    );
    assert_eq!(from_pixels(&[9; 16], size, 4, size, Channels::Rgb).unwrap(), [9; 12]);
}

#[test]
fn sixteen_bits_become_eight() {
    let deep = DynamicImage::ImageLuma16(image::ImageBuffer::from_raw(2, 1, vec![0u16, 65535]).unwrap());
    let size = Size { height: 1, width: 2 };
    assert_eq!(from_file(&encoded(&deep, ImageFormat::Png), size, Channels::Grey).unwrap(), [0, 255]);
}

#[test]
fn halving_averages_what_a_triangle_covers() {
    // The triangle of width 2 around each new pixel weighs four old ones 1, 3, 3, 1, less at the edges.
    let from = Size { height: 1, width: 8 };
    let pixels = [0, 0, 0, 80, 80, 160, 160, 160];
    let found = from_pixels(&pixels, from, 1, Size { height: 1, width: 4 }, Channels::Grey).unwrap();
    assert_eq!(found, [0, 40, 120, 160]);
}

#[test]
fn a_jpeg_is_near_what_was_encoded() {
    let size = Size { height: 16, width: 24 };
    let smooth = DynamicImage::ImageRgb8(RgbImage::from_fn(24, 16, |x, y| image::Rgb([x as u8 * 8, y as u8 * 12, 90])));
    let found = from_file(&encoded(&smooth, ImageFormat::Jpeg), size, Channels::Rgb).unwrap();
    // Quality 75 quantises by up to 12 in the low frequencies of which a smooth picture is made.
    let worst = found.iter().zip(smooth.as_bytes()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= 12, "{worst}");
}

#[test]
fn what_is_no_picture_is_refused_by_what_it_is() {
    let wanted = |bytes: &[u8]| from_file(bytes, SMALL, Channels::Rgb).unwrap_err().to_string();
    assert_eq!(wanted(b"hello"), "is neither PNG nor JPEG (5 bytes)");
    assert_eq!(wanted(b""), "is neither PNG nor JPEG (0 bytes)");
    assert_eq!(wanted(b"GIF89a......."), "is neither PNG nor JPEG (13 bytes)");
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let whole = encoded(&colourful(Size { height: 40, width: 40 }), format);
        assert!(wanted(&whole[..60]).starts_with("cannot be decoded"), "{format:?}");
    }
}

#[test]
fn a_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded() {
    // The size in the header of a PNG, with a checksum to match, is all that is changed.
    let mut bytes = encoded(&colourful(SMALL), ImageFormat::Png);
    bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let sum = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    let text = from_file(&bytes, SMALL, Channels::Rgb).unwrap_err().to_string();
    assert!(text.starts_with("cannot be decoded") && text.to_lowercase().contains("limit"), "{text}");
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

#[test]
fn pixels_must_be_as_many_as_is_said() {
    let text =
        |pixels: &[u8], from, depth| from_pixels(pixels, from, depth, SMALL, Channels::Grey).unwrap_err().to_string();
    assert_eq!(text(&[0; 5], SMALL, 1), "holds 5 bytes, but 2 x 3 pixels of 1 channels are 6");
    assert!(text(&[], Size { height: 0, width: 3 }, 1).contains("at least one pixel"));
    assert!(text(&[0; 12], SMALL, 2).contains("of 1, 3 or 4 channels"));
    assert!(text(&[], Size { height: u32::MAX, width: u32::MAX }, 4).starts_with("holds 0 bytes"));
}
