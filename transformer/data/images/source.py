"""What a source of images is: pictures by index, with their classes or captions."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transformer.data.source import Source
from transformer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a source."""

    content: bytes | np.ndarray
    """The bytes of a file, or uint8 [H, W] or [H, W, channels]."""
    name: str
    """What people find it by."""
    label: int = 0
    """Its class."""
    caption: str = ""
    """What is said of it."""


class ImageSource(Source[Picture]):
    """Random access to the pictures of a split."""

    def texts(self) -> Sequence[str]:
        """Returns what is said of all pictures, in order."""
        raise UserError("these images have classes and no captions: choose an objective on classes, or other data")
