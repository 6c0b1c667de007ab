"""TFDS datasets as sources: prepared as ArrayRecord and read at random, with no TensorFlow in the process.

Validation is the dataset's "validation" split; if it has none, its "test" split; if it has neither, examples of "train"
chosen by a hash of their index.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from transformer.data import receipts, tfds_datasets
from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.text.config import TextConfig
from transformer.data.text.pieces import Piece, whole_document
from transformer.data.text.readable import Part, Readable, Split
from transformer.data.text.sources import Source, choose_split, extremes, unit_hash
from transformer.errors import UserError

_READ = 256  # examples read at once
_EXAMPLES = "examples "  # the name of the unit that is no file


class TfdsDataset:
    """Some text features of a TFDS dataset; prepares the dataset on first use.

    Prepared data lies under `cache_dir`/tfds, or under $TFDS_DATA_DIR where that is set.
    """

    def __init__(self, dataset: str, config: TextConfig, fields: Sequence[str], flag: str):
        self._args = (dataset, config, tuple(fields), flag)
        self.name = f"tfds:{dataset}"
        self._fields, self._fraction = tuple(fields), config.validation_fraction
        folder = tfds_datasets.folder_of(config.cache_dir)
        self._builder = tfds_datasets.builder_of(dataset, folder)
        self._check_fields(flag)
        tfds_datasets.prepare(self._builder, dataset, folder)
        splits = self._builder.info.splits
        if "train" not in splits:
            raise UserError(f"TFDS dataset {dataset!r} has no train split; it has: {', '.join(splits) or 'none'}.")
        self._held_out = next((name for name in ("validation", "test") if name in splits), None)
        count = splits["train"].num_examples
        if self._held_out is None and count < 2:
            raise UserError(
                f"TFDS dataset {dataset!r} has {count} example(s): two are needed, to train and to validate."
            )

    def __reduce__(self):
        return TfdsDataset, self._args

    def _check_fields(self, flag: str) -> None:
        features: Any = self._builder.info.features
        texts = [name for name, feature in features.items() if isinstance(feature, tfds.features.Text)]
        for field in self._fields:
            if field not in texts:
                known = ", ".join(texts) or "none"
                raise UserError(f"{self.name} has no text feature {field!r}; it has: {known}. Name one with {flag}.")

    def _read_split(self, split: Split) -> str:
        return "train" if split == "train" or self._held_out is None else self._held_out

    @property
    def key(self) -> tuple[object, ...]:
        """What a receipt of the dataset is recognised by."""
        return ("tfds", str(self._builder.data_path))

    def units(self) -> list[Unit]:
        """Returns the dataset's files, and the extreme hashes of so many examples where they are to be split."""
        splits = self._builder.info.splits
        paths = [path for split in ("train", self._held_out) if split for path in sorted(splits[split].filepaths)]
        units = [Unit(Path(path).name, (os.path.abspath(path),)) for path in paths]
        if self._held_out is None:
            units.append(Unit(f"{_EXAMPLES}{splits['train'].num_examples}", ()))
        return units

    def hash(self, facts: Sequence[Facts]) -> str:
        """Returns a hash of the fields' texts and of what decides the split."""
        carved = None if self._held_out else self._fraction
        digests = [unit["digests"] for unit in facts]
        return receipts.combine("tfds", self._builder.info.full_name, self._fields, carved, digests)

    def size(self, split: Split) -> int:
        total = self._builder.info.splits[self._read_split(split)].num_bytes
        if self._held_out is None:
            total *= self._fraction if split == "validation" else 1 - self._fraction
        return int(total)

    def parts(self, split: Split, part_bytes: int) -> list[tuple[int, int]]:
        """Ranges of examples, begin and end, of about so many bytes each."""
        info = self._builder.info.splits[self._read_split(split)]
        examples = max(1, part_bytes * info.num_examples // max(1, info.num_bytes))
        starts = range(0, info.num_examples, examples)
        return [(start, min(start + examples, info.num_examples)) for start in starts]

    def texts(self, part: tuple[int, int], split: Split, facts: Sequence[Facts]) -> Iterator[tuple[str, ...]]:
        """Yields the texts of the fields, an example after the other."""
        data: Any = self._builder.as_data_source(self._read_split(split))

        def is_chosen(index: int) -> bool:
            return choose_split(unit_hash(str(index)), self._fraction, *facts[-1]["extremes"]) == split

        start, stop = part
        for begin in range(start, stop, _READ):
            indices = range(begin, min(begin + _READ, stop))
            chosen = list(indices) if self._held_out else [index for index in indices if is_chosen(index)]
            for example in data.__getitems__(chosen) if chosen else ():
                yield tuple(example[field].decode("utf-8", "replace") for field in self._fields)


def _scan(unit: Unit) -> Facts:
    if unit.files:
        return {"digests": [receipts.hash_file(file) for file in unit.files]}
    return {"digests": [], "extremes": extremes(map(str, range(int(unit.name.removeprefix(_EXAMPLES)))))}


class TfdsReadable(Readable):
    """What texts and pairs of a TFDS dataset have in common."""

    _dataset: TfdsDataset

    @property
    def _key(self) -> tuple[object, ...]:
        return self._dataset.key

    def _units(self) -> list[Unit]:
        return self._dataset.units()

    @property
    def _scan(self) -> Scan:
        return _scan

    def _hash(self) -> str:
        return self._dataset.hash(self.facts)

    def size(self, split: Split) -> int:
        return self._dataset.size(split)

    def parts(self, split: Split) -> Sequence[Part]:
        return self._dataset.parts(split, self._part_bytes)


class TfdsSource(TfdsReadable, Source):
    """One text feature of a TFDS dataset."""

    def __init__(self, dataset: str, config: TextConfig):
        super().__init__(config.cache_dir)
        self._dataset = TfdsDataset(dataset, config, [config.text_field], "--data.text-field")
        self.name = self._dataset.name

    def part_pieces(self, part: Part, split: Split) -> Iterator[Piece]:
        for (text,) in self._dataset.texts(part, split, self.facts):
            yield from whole_document(text)
