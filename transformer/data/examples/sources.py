"""Where rows come from, and which of them are to train and which to validate on."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.reading import ExampleReading
from transformer.data.examples.rows import Row
from transformer.data.source import Source, divided
from transformer.data.splits import digest, key_hashes
from transformer.data.text.readers import COMPRESSED
from transformer.errors import UserError

_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
"""Split -> what its file, in a folder, may be called."""


class RowSource(Source[Row]):
    """Rows in memory."""

    def __init__(self, rows: Iterable[Row], reading: ExampleReading, config: ExamplesConfig, name: str):
        """Reads all rows.

        Raises:
          UserError: there are none, or one that the task cannot read.
        """
        self._rows, self._reading, self._config = list(rows), reading, config
        if not self._rows:
            raise UserError(f"{name} holds no examples")
        self._texts = [reading.texts(row, config) for row in self._rows]
        self.labels = tuple(dict.fromkeys(label for row in self._rows for label in reading.labels(row, config)))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]

    @property
    def fingerprint(self) -> str:
        """A hash of all values."""
        return digest([repr(row.values) for row in self._rows])

    @property
    def hashes(self) -> np.ndarray:
        """By what rows that belong together have in common."""
        return key_hashes(self._reading.key(row, self._config) for row in self._rows)

    def texts(self) -> Sequence[str]:
        return [text for texts in self._texts for text in texts]


def open_sources(
    config: ExamplesConfig, reading: ExampleReading, *, whole: bool = False
) -> tuple[Source[Row] | None, Source[Row]]:
    """Returns the training rows, None where all are to validate on, and the validation rows.

    Raises:
      UserError: there are none, or something about them that a person can mend.
    """

    def source(rows: Iterable[Row], name: str) -> RowSource:
        return RowSource(rows, reading, config, name)

    if config.path is not None:
        splits = _of_path(Path(config.path).expanduser(), reading)
        opened = {split: source(reading.rows(path, config), str(path)) for split, path in _wanted(splits, whole)}
    elif config.tfds is not None:
        opened = {split: source(rows, config.tfds) for split, rows in _wanted(_of_tfds(config), whole)}
    else:
        from transformer.data.examples.embedded import embedded_rows  # which comes to TFDS too

        rows = embedded_rows(config.embedded)
        opened = {split: source(rows[split], config.embedded) for split, _ in _wanted(rows, whole)}
    if whole:
        [held] = opened.values()
        return None, held
    if "validation" in opened:
        return opened["train"], opened["validation"]
    return divided(opened["train"], config.validation_fraction, "examples")


def _wanted(splits: dict[str, Any], whole: bool) -> Iterator[tuple[str, Any]]:
    """Yields the splits that are read: where all are to validate on, the test split, or else that of validation."""
    order = ("test", "validation", "train") if whole else ("train", "validation")
    there = [split for split in order if split in splits]
    yield from ((split, splits[split]) for split in (there[:1] if whole else there))


def _of_path(path: Path, reading: ExampleReading) -> dict[str, Path]:
    """Returns split -> file."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        return {"train": path}
    found: dict[str, Path] = {}
    for split, names in _NAMES.items():
        endings = [f"{suffix}{packed}" for suffix in reading.suffixes for packed in ("", *COMPRESSED)]
        files = [file for name in names for ending in endings if (file := path / f"{name}{ending}").is_file()]
        if len(files) > 1:
            raise UserError(f"{path} has {files[0].name} and {files[1].name}: leave one of them")
        if files:
            found[split] = files[0]
    if "train" not in found:
        if len(found) == 1:
            return found
        raise UserError(f"{path} has no file train with one of the endings {', '.join(reading.suffixes)}")
    if "validation" not in found and "test" in found:
        found["validation"] = found["test"]
    return found


def _of_tfds(config: ExamplesConfig) -> dict[str, Iterable[Row]]:
    """Returns split -> rows, in which classes have their names."""
    from transformer.data import tfds_datasets  # importing TFDS takes a third of a second

    dataset = str(config.tfds)
    folder = tfds_datasets.folder_of(config.cache_dir)
    builder = tfds_datasets.builder_of(dataset, folder)
    tfds_datasets.prepare(builder, dataset, folder)
    names = {field: feature.names for field, feature in builder.info.features.items() if hasattr(feature, "names")}
    known = _NAMES | {"validation": (*_NAMES["validation"], "validation_matched")}
    there = builder.info.splits
    splits = {split: next((name for name in there if name in names), None) for split, names in known.items()}
    if splits["train"] is None:
        raise UserError(f"TFDS dataset {dataset!r} has no train split; it has: {', '.join(builder.info.splits)}")
    return {
        split: _tfds_rows(builder, name, names, f"tfds:{dataset} {name}")
        for split, name in splits.items()
        if name is not None and not (split == "test" and _is_unlabelled(builder, name, config))
    }


def _tfds_rows(builder: Any, split: str, names: dict[str, list[str]], where: str) -> Iterator[Row]:
    for number, example in enumerate(builder.as_data_source(split)):
        values = {field: _plain(value, names.get(field)) for field, value in example.items()}
        yield Row(f"{where}, example {number}", values)


def _plain(value: Any, names: list[str] | None) -> Any:
    """Returns a feature's value as JSON would have it; a class by its name."""
    if isinstance(value, dict):
        return {name: _plain(each, None) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return [_plain(each, names) for each in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    return names[value] if names is not None and isinstance(value, int) and value >= 0 else value


def _is_unlabelled(builder: Any, split: str, config: ExamplesConfig) -> bool:
    """Whether a split's labels are secret, as those of GLUE's test sets, which are -1."""
    source = builder.as_data_source(split)
    return bool(len(source)) and np.all(np.asarray(source[0].get(config.label_field, 0)) == -1).item()
