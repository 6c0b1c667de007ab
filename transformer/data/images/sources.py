"""Sources: from a config of images to the pictures of its two splits."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformer.data.images.arrays import IdxFiles, TfdsImages, idx_pair
from transformer.data.images.config import ImagesConfig
from transformer.data.images.embedded import Digits, Shapes
from transformer.data.images.folders import SPLITS, CaptionFile, ClassFolders, class_folders
from transformer.data.images.shards import Parquet, WebDataset
from transformer.data.images.source import ImageSource, Picture
from transformer.data.listing import Listings
from transformer.data.source import Source, divided
from transformer.errors import UserError

_FILES: dict[str, Callable[..., Any]] = {".parquet": Parquet, ".tar": WebDataset}
_IDX = {"train": "train", "validation": "t10k"}


def open_sources(
    config: ImagesConfig, *, whole: bool = False, listings: Listings | None = None
) -> tuple[Source[Picture] | None, Source[Picture]]:
    """Returns the training pictures and the validation pictures.

    Args:
      config: names them.
      whole: all are to validate on, and there are none to train on.
      listings: those of its cache; None: they are read there.

    Raises:
      UserError: there are none, or something about them that a person can mend.
    """
    if config.path is not None:
        train, validation = _of_path(Path(config.path).expanduser(), listings or Listings(config.cache_dir))
    elif config.tfds is not None:
        train, validation = _of_tfds(config.tfds, config.cache_dir)
    elif config.embedded == "shapes":
        train, validation = Shapes("train"), Shapes("validation")
    else:
        train, validation = Digits(), None
    if whole:
        return None, train if validation is None else validation
    if validation is None:
        return divided(train, config.validation_fraction, "images")
    return train, validation


def _of_path(path: Path, listings: Listings) -> tuple[ImageSource, ImageSource | None]:
    """Returns the pictures at a path, and its validation pictures; None: it has no such split."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix.lower() in (".tsv", ".jsonl"):
            return CaptionFile(path, listings), None
        return _of_files([path], None), None
    if pair := idx_pair(path, _IDX["train"]):
        train = IdxFiles(*pair)
        held = idx_pair(path, _IDX["validation"])
        return train, IdxFiles(*held, names=train.labels) if held else None
    folders = {split: next((path / name for name in names if (path / name).is_dir()), None)
               for split, names in SPLITS.items()}  # fmt: skip
    of_training = path if folders["train"] is None else folders["train"]
    # Where a listing is kept there is nothing else to look for, which would list all folders.
    endings = () if listings.kept(class_folders(of_training)) else _FILES
    for ending in endings:
        if files := sorted(path.rglob(f"*{ending}")):
            return _of_shards(files)
    if folders["train"] is not None and folders["validation"] is not None:
        train = ClassFolders(of_training, listings)
        return train, ClassFolders(folders["validation"], listings, train.labels)
    held = folders["validation"]
    if folders["train"] is None and held is not None and any(inside.is_dir() for inside in held.iterdir()):
        raise UserError(
            f"{path} has a folder {held.name} and no folder train: put the training images into {path / 'train'}, or "
            f"give --data.path {held} alone"
        )
    return ClassFolders(of_training, listings), None


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
    if ending not in _FILES:
        known = ", ".join([*_FILES, ".tsv", ".jsonl"])
        raise UserError(
            f"{files[0]}: images are read from {known} files, or from a folder with a folder for each class"
        )
    return _FILES[ending](files, labels)


def _of_tfds(dataset: str, cache_dir: str) -> tuple[ImageSource, ImageSource | None]:
    from transformer.data import tfds_datasets  # importing TFDS takes a third of a second

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
