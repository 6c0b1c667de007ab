"""Decoding: the bytes of a picture to an image of grey or of colours, upright; what cannot be read is named."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from transformer.errors import UserError

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class DamagedImage(UserError):
    """A picture that cannot be read; the message names it."""


def decode(content: bytes, name: str, channels: int) -> Image.Image:
    """Returns an image in the mode `RGB`, or `L` for one channel, turned as its EXIF orientation says.

    Palettes become their colours, CMYK is converted, and what is transparent shows the colour that it was stored with.
    Sixteen bits a channel become eight, in proportion: Pillow's own conversion would cut them off at 255.

    Args:
      content: the bytes of a file in any format that Pillow reads.
      name: the file, for the message.
      channels: 1 or 3.

    Raises:
      DamagedImage: the bytes are no picture, end too early, or have a pixel format that is no picture's.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # of tags that nothing reads
            image = Image.open(io.BytesIO(content))
            image.load()
            return upright(image, name, channels)
    except Image.UnidentifiedImageError:
        what = "it is empty" if not content else "it is no picture of a format that Pillow reads"
        raise DamagedImage(f"{name}: {what}") from None
    except DamagedImage:
        raise
    except Exception as error:  # each format of Pillow's raises its own where a file is damaged
        raise DamagedImage(f"{name}: the picture is damaged ({error})") from error


def upright(image: Image.Image, name: str, channels: int) -> Image.Image:
    """Returns an image as `decode` does, of one that Pillow has opened."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise DamagedImage(f"{name}: its pixels are of floating point, which are no brightness")
    if image.mode == "I":
        pixels = np.asarray(image)
        least, most = int(pixels.min()), int(pixels.max())
        if least < 0 or most >= 2**16:
            raise DamagedImage(f"{name}: its pixels run from {least} to {most}, beyond sixteen bits")
    return _with_channels(image, channels)


def from_array(pixels: np.ndarray, name: str, channels: int) -> Image.Image:
    """Returns an image, as `decode` does, of uint8 or uint16 [H, W] or [H, W, 1, 3 or 4]; others raise UserError."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{name}: its pixels are {pixels.dtype}, and images are read as uint8 or uint16")
    if pixels.shape[2:] not in ((), (1,), (3,), (4,)) or pixels.ndim < 2:
        raise UserError(f"{name}: its array is {list(pixels.shape)}, and images are [H, W] or [H, W, 1, 3 or 4]")
    if pixels.dtype == np.uint16:
        pixels = _eight_bits(pixels)
    return _with_channels(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels), channels)


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 of pixels that run from 0 to 65,535, in proportion."""
    return (pixels.astype(np.float64) / 257 + 0.5).astype(np.uint8)


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image in the mode `RGB`, or `L` for one channel."""
    if image.mode in _SIXTEEN_BITS:
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # which Pillow wants named, before the transparency is dropped
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)
