"""Records of images: decoded, varied in training, cut to size and normalised."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from transformer.data.damaged import Damaged
from transformer.data.images.augmentation import Augmentation
from transformer.data.images.decoding import DamagedImage, decode, from_array
from transformer.data.images.preprocessing import Preprocessing
from transformer.data.images.source import Picture
from transformer.data.records import Reading, Record, Records
from transformer.data.source import Source
from transformer.data.tokenized import tokens_of
from transformer.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ImageReading(Reading):
    """How an objective reads images."""

    captions: bool = False
    """Whether it reads what is said of each."""
    length: int = 0
    """T: tokens of a caption, at most; longer ones are cut, and keep their end."""

    def padding(self, input_size: tuple[int, ...]) -> Record:
        if self.captions:
            said = {name: np.zeros(self.length, np.int32) for name in ("tokens", "segment_ids")}
        else:
            said = {"label": np.int32(0), "other_label": np.int32(0), "share": np.float32(0)}
        record = {"image": np.zeros(input_size, np.float32), "there": np.float32(0), **said}
        return {name: np.asarray(value) for name, value in record.items()}


class ImageRecords(Records):
    """Record i: `image` float32 [size, size, C], `there` (1; 0 where it is left out), and its class or caption.

    Of classes `label` and `other_label`, int32, and `share`, float32: what of the image is of the first. Of captions
    `tokens` and `segment_ids`, int32[T].
    """

    def __init__(
        self,
        source: Source[Picture],
        preprocessing: Preprocessing,
        reading: ImageReading,
        damaged: Damaged,
        *,
        augmentation: Augmentation | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        """Records of a source.

        Args:
          source: the pictures.
          preprocessing: what makes arrays of them.
          reading: what an objective reads.
          damaged: what happens to pictures that cannot be read.
          augmentation: how they are varied; None: not at all.
          tokenizer: of captions.
        """
        self._source, self._preprocessing, self._reading = source, preprocessing, reading
        self._damaged, self._augmentation, self._tokenizer = damaged, augmentation, tokenizer

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        picture = self._source[index]
        return self._record(picture, self._read(picture, None))

    def draw(self, index: int, rng: np.random.Generator) -> Record:
        """Returns record `index`, varied, and perhaps mixed with another that the generator chooses."""
        if self._augmentation is None:
            return self[index]
        picture = self._source[index]
        record = self._record(picture, self._read(picture, rng))
        if not self._augmentation.mixes or self._reading.captions or not record["there"]:
            return record
        other = self._source[int(rng.integers(len(self)))]
        pixels = self._read(other, rng)
        if pixels is None:
            return record
        image, share = self._augmentation.mixed(record["image"], pixels, rng)
        mixed = {"image": image, "other_label": np.int32(other.label), "share": np.float32(share)}
        return record | {name: np.asarray(value) for name, value in mixed.items()}

    def _read(self, picture: Picture, rng: np.random.Generator | None) -> np.ndarray | None:
        """Returns a picture as the model reads it, varied where there is a generator; None where it is left out."""
        augmentation, content = self._augmentation, picture.content
        if isinstance(content, np.ndarray) and self._preprocessing.keeps(content):
            # Pillow, which tiny images would spend most of their time in, has nothing to do here.
            pixels = content.reshape(*content.shape[:2], -1)
            if rng is None or augmentation is None:
                return self._preprocessing.normalised(pixels)
            if augmentation.moves_alone:
                return self._preprocessing.normalised(augmentation.moved(pixels, rng))
        image = self._decoded(picture)
        if image is None:
            return None
        if rng is None or augmentation is None:
            return self._preprocessing(image)
        return self._preprocessing.normalised(augmentation(image, rng))

    def _decoded(self, picture: Picture) -> Image.Image | None:
        """Returns the picture; None where it cannot be read and is left out."""
        channels = self._preprocessing.channels
        if isinstance(picture.content, np.ndarray):
            return from_array(picture.content, picture.name, channels)
        try:
            return decode(picture.content, picture.name, channels)
        except DamagedImage as error:
            self._damaged.note(error, picture.name)
            return None

    def _record(self, picture: Picture, pixels: np.ndarray | None) -> Record:
        size, channels = self._preprocessing.size, self._preprocessing.channels
        record: dict[str, Any] = {
            "image": np.zeros((size, size, channels), np.float32) if pixels is None else pixels,
            "there": np.float32(pixels is not None),
        }
        if self._reading.captions:
            assert self._tokenizer is not None  # who reads captions has one
            record |= tokens_of(picture.caption, self._tokenizer, self._reading.length)
        else:
            record |= {"label": np.int32(picture.label), "other_label": np.int32(0), "share": np.float32(1)}
        return {name: np.asarray(value) for name, value in record.items()}
