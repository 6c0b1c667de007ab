"""Sources: from a config of images to the pictures of its two splits."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data import tfds_datasets
from transformer.data.images.config import ImagesConfig
from transformer.data.images.containers import IdxFiles, Parquet, TfdsImages, WebDataset, idx_pair
from transformer.data.images.embedded import Digits, Shapes
from transformer.data.images.folders import SPLITS, CaptionFile, ClassFolders
from transformer.data.images.source import ImageSource, Part
from transformer.data.splits import held_out
from transformer.errors import UserError

_FILES: dict[str, Callable[..., Any]] = {".parquet": Parquet, ".tar": WebDataset}
_IDX = {"train": "train", "validation": "t10k"}


def open_sources(config: ImagesConfig, *, whole: bool = False) -> tuple[ImageSource | None, ImageSource]:
    """Returns the training pictures and the validation pictures.

    Args:
      config: names them.
      whole: all are to validate on, and there are none to train on.

    Raises:
      UserError: there are none, or something about them that a person can mend.
    """
    if config.path is not None:
        train, validation = _of_path(Path(config.path).expanduser())
    elif config.tfds is not None:
        train, validation = _of_tfds(config.tfds, config.cache_dir)
    elif config.embedded == "shapes":
        train, validation = Shapes("train"), Shapes("validation")
    else:
        train, validation = Digits(), None
    if whole:
        return None, train if validation is None else validation
    if validation is None:
        train, validation = _split(train, config.validation_fraction)
    return train, validation


def _split(source: Any, fraction: float) -> tuple[ImageSource, ImageSource]:
    """Returns two parts of a source without a split of its own: pictures of one key are in the same part."""
    held = held_out(source.keys, fraction)
    if not held.any() or held.all():
        raise UserError(
            f"{len(source)} image(s), and --data.validation-fraction {fraction:g} of them leave none to train on or "
            "none to validate on: give more images, another fraction, or folders train and validation"
        )
    return Part(source, np.flatnonzero(~held)), Part(source, np.flatnonzero(held))


def _of_path(path: Path) -> tuple[ImageSource, ImageSource | None]:
    """Returns the pictures at a path, and its validation pictures; None: it has no such split."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        return _of_files([path], None), None
    if pair := idx_pair(path, _IDX["train"]):
        train = IdxFiles(*pair)
        held = idx_pair(path, _IDX["validation"])
        return train, IdxFiles(*held, names=train.labels) if held else None
    for ending in _FILES:
        if files := sorted(path.rglob(f"*{ending}")):
            return _of_shards(files)
    folders = {split: next((path / name for name in names if (path / name).is_dir()), None)
               for split, names in SPLITS.items()}  # fmt: skip
    if folders["train"] is not None and folders["validation"] is not None:
        train = ClassFolders(folders["train"])
        return train, ClassFolders(folders["validation"], train.labels)
    held = folders["validation"]
    if folders["train"] is None and held is not None and any(inside.is_dir() for inside in held.iterdir()):
        raise UserError(
            f"{path} has a folder {held.name} and no folder train: put the training images into {path / 'train'}, or "
            f"give --data.path {held} alone"
        )
    return ClassFolders(path if folders["train"] is None else folders["train"]), None


def _of_shards(files: Sequence[Path]) -> tuple[ImageSource, ImageSource | None]:
    """Returns the pictures of shards; those whose name or folder begins with a split's name are that split's."""

    def of_split(split: str) -> list[Path]:
        names = SPLITS[split]
        return [file for file in files if file.name.startswith(names) or file.parent.name in names]

    train, validation = of_split("train"), of_split("validation")
    if not (train and validation):
        return _of_files(files, None), None
    source = _of_files(train, None)
    held = _of_files(validation, source.labels or None)
    if bool(source.labels) != bool(held.labels):
        which = ("classes", "captions") if source.labels else ("captions", "classes")
        raise UserError(f"{validation[0]}: it has {which[1]}, and {train[0]} has {which[0]}: give files of one kind")
    return source, held


def _of_files(files: Sequence[Path], labels: Sequence[str] | None) -> ImageSource:
    ending = files[0].suffix.lower()
    if ending in (".tsv", ".jsonl"):
        return CaptionFile(files[0])
    if ending not in _FILES:
        known = ", ".join([*_FILES, ".tsv", ".jsonl"])
        raise UserError(
            f"{files[0]}: images are read from {known} files, or from a folder with a folder for each class"
        )
    return _FILES[ending](files, labels)


def _of_tfds(dataset: str, cache_dir: str) -> tuple[ImageSource, ImageSource | None]:
    folder = tfds_datasets.folder_of(cache_dir)
    builder = tfds_datasets.builder_of(dataset, folder)
    features = builder.info.features
    if lacking := [name for name in ("image", "label") if name not in features]:
        raise UserError(f"TFDS dataset {dataset!r} has no feature {lacking[0]!r}; it has: {', '.join(features)}")
    tfds_datasets.prepare(builder, dataset, folder)
    names, splits = features["label"].names, builder.info.splits
    if "train" not in splits:
        raise UserError(f"TFDS dataset {dataset!r} has no train split; it has: {', '.join(splits) or 'none'}")
    held = next((name for name in ("validation", "test") if name in splits), None)
    opened = functools.partial(_tfds_split, builder, dataset, names)
    return opened("train"), None if held is None else opened(held)


def _tfds_split(builder: Any, dataset: str, names: Sequence[str], split: str) -> TfdsImages:
    content = f"{builder.info.full_name} {split} {builder.info.splits[split].num_bytes}"
    return TfdsImages(builder.as_data_source(split), f"tfds:{dataset} {split}", names, content)
