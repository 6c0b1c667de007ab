"""Datasets of images: with classes, or with captions and a tokenizer."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.damaged import Damaged
from transformer.data.dataset import About, Dataset
from transformer.data.images.augmentation import Augmentation
from transformer.data.images.config import ImagesConfig
from transformer.data.images.preprocessing import PREPROCESSING, Preprocessing
from transformer.data.images.records import ImageReading, ImageRecords
from transformer.data.images.source import Picture
from transformer.data.images.sources import open_sources
from transformer.data.records import JoinedRecords
from transformer.data.source import Source
from transformer.data.splits import digest
from transformer.data.tokenized import TokenizedDataset, framed
from transformer.errors import UserError
from transformer.tokenizers.kinds import check_vocabulary, make_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.tokenizers.training_text import TrainingText, up_to
from transformer.tokenizers.vocabulary import Vocabulary

_LOOKED_AT = 100


@dataclasses.dataclass(frozen=True)
class ImageDataset(Dataset):
    """Images with classes."""

    preprocessing: Preprocessing
    labels: tuple[str, ...]
    """Names of the classes."""

    @property
    def files(self) -> Mapping[str, bytes]:
        return {PREPROCESSING: _json(self.preprocessing, self.labels)}


@dataclasses.dataclass(frozen=True)
class CaptionDataset(TokenizedDataset):
    """Images with captions."""

    preprocessing: Preprocessing

    @property
    def files(self) -> Mapping[str, bytes]:
        return {PREPROCESSING: _json(self.preprocessing, ())}


def open_images(
    config: ImagesConfig,
    reading: ImageReading,
    *,
    vocab_size: int | None,
    input_size: tuple[int, ...] = (),
    tokenizer: Tokenizer | None = None,
    whole: bool = False,
) -> ImageDataset | CaptionDataset:
    """Opens the images that a config names; arguments and errors as `kinds.open_dataset`'s."""
    if len(input_size) != 3:
        raise UserError("--data is images and the model reads none: choose a preset of another model or other data")
    if reading.captions != (vocab_size is not None):
        raise UserError("the objective and the model differ in whether they read captions: choose a whole preset")
    preprocessing = preprocessing_of(config, input_size)
    train, validation = open_sources(config, whole=whole)
    source = validation if train is None else train
    cache_dir = Path(config.cache_dir).expanduser()
    contents = [*([] if train is None else [train.fingerprint]), validation.fingerprint]
    damaged = Damaged(cache_dir / "left-out" / f"{digest(contents)}.txt" if config.skip_damaged else None)
    if reading.captions and source.labels:
        raise UserError(f"--{config.flag(config.sources[0])}: these images have classes and no captions")
    if reading.captions and tokenizer is None:
        assert vocab_size is not None
        said = TrainingText(lambda: [source.fingerprint], lambda size: up_to(size, source.texts()))
        tokenizer = make_tokenizer(config.tokenizer, vocab_size, said, cache_dir)
    if tokenizer is not None and vocab_size is not None:
        check_vocabulary(tokenizer, vocab_size)
    make = functools.partial(
        ImageRecords, preprocessing=preprocessing, reading=reading, damaged=damaged, tokenizer=tokenizer
    )
    records = () if train is None else (make(train, augmentation=Augmentation(config, preprocessing)),)
    own = {} if tokenizer is None else {"tokenizer": tokenizer.fingerprint}
    [name] = config.sources
    identity = {"sources": {name: digest(contents)}, "validation_fraction": config.validation_fraction, **own}
    shared: dict[str, Any] = {
        "train": records,
        "weights": (1.0,) * len(records),
        "validation": JoinedRecords([make(validation)]),
        "fingerprint": digest([*contents, *own.values()]),
        "about": About(identity, _summary(train, validation), notes=(*source.notes, *damaged.notes)),
        "preprocessing": preprocessing,
    }
    if not reading.captions:
        if not source.labels:
            raise UserError(f"--{config.flag(name)}: these images have captions and no classes")
        return ImageDataset(labels=source.labels, **shared)
    assert tokenizer is not None
    shared["about"] = dataclasses.replace(
        shared["about"], notes=(*shared["about"].notes, *_cut(source, tokenizer, reading.length))
    )
    return CaptionDataset(tokenizer=tokenizer, vocabulary=Vocabulary.of(tokenizer), **shared)


def preprocessing_of(config: ImagesConfig, input_size: tuple[int, ...]) -> Preprocessing:
    """Returns how images become what a model reads; UserError where the config does not fit the model."""
    size, _, channels = input_size
    if channels not in (1, 3):
        raise UserError(f"--model.channels {channels}: images are read in grey (1) or in colours (3)")
    for name in ("mean", "std"):
        values = getattr(config, name)
        if len(values) not in (1, channels):
            raise UserError(
                f"--data.{name} has {len(values)} numbers, and an image {channels} channels: give 1 or {channels}"
            )
    return Preprocessing(
        size, channels, config.resize, config.edge, config.resample, tuple(config.mean), tuple(config.std)
    )


def _cut(source: Source[Picture], tokenizer: Tokenizer, length: int) -> tuple[str, ...]:
    """Returns a note where captions are longer than a row: a look at some is enough to tell a length chosen wrongly."""
    looked = np.unique(np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).astype(int))
    longer = sum(sum(map(len, framed(source[int(index)].caption, tokenizer))) > length for index in looked)
    if not longer:
        return ()
    return (
        f"{longer} of {len(looked)} captions looked at are longer than the {length} tokens of --train.seq-len: the "
        "rest of them is not read",
    )


def _summary(train: Source[Picture] | None, validation: Source[Picture]) -> str:
    classes = f" of {len(validation.labels)} classes" if validation.labels else " with captions"
    of_training = "" if train is None else f"{len(train):,} images to train on, "
    return f"{of_training}{len(validation):,} to validate{classes}"


def _json(preprocessing: Preprocessing, labels: tuple[str, ...]) -> bytes:
    return (json.dumps({**preprocessing.to_dict(), "labels": labels}, indent=2) + "\n").encode()
