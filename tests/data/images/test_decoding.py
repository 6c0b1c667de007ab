"""Pictures of every pixel format become grey or colours, upright; what cannot be read is named."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data.images.pictures import encoded, picture
from transformer.data.images.decoding import DamagedImage, decode, from_array
from transformer.errors import UserError


def pixels(image):
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_and_grey_are_pillows(mode, channels):
    image = picture(mode=mode)
    have = decode(encoded(image), "a.png", channels)
    assert have.mode == ("L" if channels == 1 else "RGB")
    np.testing.assert_array_equal(pixels(have), pixels(image.convert(have.mode)))


def test_a_palette_becomes_its_colours():
    image = picture().quantize(7)
    for options in ({}, {"transparency": 2}):
        have = decode(encoded(image, "PNG", **options), "a.png", 3)
        np.testing.assert_array_equal(pixels(have), pixels(image.convert("RGB")))


def test_sixteen_bits_are_scaled_and_not_cut_off():
    deep = np.array([[0, 257, 32768, 65535]], np.uint16)
    have = decode(encoded(Image.fromarray(deep)), "a.png", 1)
    assert pixels(have).tolist() == [[0, 1, 128, 255]]
    assert pixels(decode(encoded(Image.fromarray(deep), "TIFF"), "a.tif", 3))[0, 2].tolist() == [128] * 3


def test_cmyk_is_converted():
    red = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    for kind, near in (("TIFF", 0), ("JPEG", 3)):
        assert abs(pixels(decode(encoded(red, kind), "a", 3)).astype(int) - [255, 0, 0]).max() <= near


@pytest.mark.parametrize("turned", range(1, 9))
def test_the_orientation_of_exif_is_applied(turned):
    image, exif = picture(), Image.Exif()
    exif[0x0112] = turned
    have = decode(encoded(image, "PNG", exif=exif), "a.png", 3)
    stored = image.copy()
    stored.getexif()[0x0112] = turned
    np.testing.assert_array_equal(pixels(have), pixels(ImageOps.exif_transpose(stored)))
    assert (have.size == image.size) == (turned < 5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a.png: it is empty"),
        (b"no picture at all", "a.png: it is no picture"),
        (encoded(picture(size=(60, 60)))[:-3000], "a.png: the picture is damaged"),
        (encoded(picture(size=(60, 60)), "JPEG")[:600], "a.png: the picture is damaged"),
        (encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "a.png: its pixels are of floating point"),
        (
            encoded(Image.fromarray(np.array([[-5, 70_000]], np.int32)), "TIFF"),
            "its pixels run from -5 to 70000, beyond",
        ),
    ],
)
def test_what_cannot_be_read_is_named(content, words):
    with pytest.raises(DamagedImage, match=words) as caught:
        decode(content, "a.png", 3)
    assert "\n" not in str(caught.value)
    assert "--data" not in str(caught.value)  # which who decodes need not have


def test_arrays_of_sixteen_bits_are_scaled():
    deep = np.array([[[0, 257, 65535]]], np.uint16)
    assert pixels(from_array(deep, "a", 3)).tolist() == [[[0, 1, 255]]]
    assert pixels(from_array(deep[..., 2:], "a", 1)).tolist() == [[255]]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((2, 2, 3), np.float32), "a, image 3: its pixels are float32"),
        (np.ones((2, 2, 2), np.uint8), r"a, image 3: its array is \[2, 2, 2\]"),
        (np.ones(2, np.uint8), r"a, image 3: its array is \[2\]"),
    ],
)
def test_arrays_that_are_no_pictures_are_named(array, words):
    with pytest.raises(UserError, match=words):
        from_array(array, "a, image 3", 3)
