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
            image = ImageOps.exif_transpose(image)
    except Image.UnidentifiedImageError:
        what = "it is empty" if not content else "it is no picture of a format that Pillow reads"
        raise DamagedImage(f"{name}: {what}{_HINT}") from None
    except Exception as error:  # each format of Pillow's raises its own where a file is damaged
        raise DamagedImage(f"{name}: the picture is damaged ({error}){_HINT}") from error
    if image.mode == "F":
        raise DamagedImage(f"{name}: its pixels are of floating point, which are no brightness{_HINT}")
    return with_channels(image, channels)


_HINT = ": mend or remove it, or give --data.skip-damaged True to leave such images out"


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image in the mode `RGB`, or `L` for one channel."""
    if image.mode in _SIXTEEN_BITS:
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257 + 0.5).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # which Pillow wants named, before the transparency is dropped
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)
