"""TFDS datasets as sources: prepared as ArrayRecord and read at random, with no TensorFlow in the process.

Validation is the dataset's "validation" split; if it has none, its "test" split; if it has neither, examples of "train"
chosen by a hash of their index.
"""

import contextlib
import difflib
import importlib
import io
import os
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from transformer.atomic import errors_named, exclusive
from transformer.data import receipts
from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.text.config import TextConfig
from transformer.data.text.pieces import Piece, whole_document
from transformer.data.text.readable import Part, Readable, Split
from transformer.data.text.sources import Source, choose_split, extremes, unit_hash
from transformer.errors import UserError

_READ = 256  # examples read at once
_EXAMPLES = "examples "  # the name of the unit that is no file
_ROOMS = ("text", "translate", "summarization", "question_answering")
_EMBEDDED = ("python_stdlib", "python_docstrings")


class TfdsDataset:
    """Some text features of a TFDS dataset; prepares the dataset on first use.

    Prepared data lies under `cache_dir`/tfds, or under $TFDS_DATA_DIR where that is set.
    """

    def __init__(self, dataset: str, config: TextConfig, fields: Sequence[str], flag: str):
        self._args = (dataset, config, tuple(fields), flag)
        self.name = f"tfds:{dataset}"
        self._fields, self._fraction = tuple(fields), config.validation_fraction
        folder = Path(os.environ.get("TFDS_DATA_DIR") or Path(config.cache_dir) / "tfds").expanduser()
        self._builder = _builder(dataset, folder)
        self._check_fields(flag)
        _prepare(self._builder, dataset, folder)
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


def _builder(dataset: str, folder: Path) -> Any:
    if dataset in _EMBEDDED:
        module = importlib.import_module(f"transformer.data.text.{dataset}.{dataset}_dataset_builder")
        return module.Builder(data_dir=str(folder), file_format="array_record")
    if dataset.split("/")[0] not in tfds.list_builders(with_community_datasets=False):
        # Wikipedia, C4, WMT and others: TFDS knows them only once the modules that define them are imported.
        for room in _ROOMS:
            importlib.import_module(f"tensorflow_datasets.{room}")
    try:
        return tfds.builder(dataset, data_dir=str(folder), file_format="array_record", try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = [*tfds.list_builders(with_community_datasets=False), *_EMBEDDED]
        near = difflib.get_close_matches(dataset.split("/")[0], known, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" The embedded ones are {' and '.join(_EMBEDDED)}."
        raise UserError(f"TFDS has no dataset {dataset!r} that loads without TensorFlow.{hint}") from None
    except ImportError as error:
        raise _missing_module(dataset, error) from error
    except ValueError as error:
        raise UserError(f"TFDS dataset {dataset!r}: {_first_line(error)}") from error


def _prepare(builder: Any, dataset: str, folder: Path) -> None:
    """Downloads and writes the dataset if it is not there; TFDS itself renames a whole folder into place at the end."""
    if not _prepared(builder):
        with exclusive(folder / ".lock"):  # of several processes, one prepares
            if not _prepared(builder):
                if dataset not in _EMBEDDED:
                    _check_network(dataset, folder)
                with errors_named(folder):
                    _download(builder, dataset)
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"TFDS dataset {dataset!r} in {builder.data_path} is stored as {builder.info.file_format.value}, which "
            "needs TensorFlow to read. Prepare it as array_record, or set --data.cache-dir to a new folder."
        )


def _prepared(builder: Any) -> bool:
    return (Path(builder.data_path) / "dataset_info.json").exists()


def _download(builder: Any, dataset: str) -> None:
    quiet = dataset in _EMBEDDED  # a second's work: TFDS's four progress bars would only be noise
    try:
        with contextlib.ExitStack() as stack:
            if quiet:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            builder.download_and_prepare()
    except ImportError as error:
        raise _missing_module(dataset, error) from error
    except tfds.download.DownloadError as error:
        raise UserError(f"TFDS dataset {dataset!r} could not be downloaded: {_first_line(error)}") from error
    except OSError as error:
        if type(error).__module__.startswith("requests"):
            raise UserError(f"TFDS dataset {dataset!r} could not be downloaded: {_first_line(error)}") from error
        raise


def _check_network(dataset: str, folder: Path) -> None:
    """Fails at once where names do not resolve: TFDS would retry for minutes. Earlier downloads may still serve."""
    downloads = folder / "downloads"
    if urllib.request.getproxies() or (downloads.exists() and any(path.is_file() for path in downloads.rglob("*"))):
        return
    try:
        socket.getaddrinfo("storage.googleapis.com", 443)
    except OSError:
        raise UserError(
            f"TFDS dataset {dataset!r} is not in {folder} and there is no network to download it. Prepare it where "
            f"there is one and copy the folder, or use --data.tfds {_EMBEDDED[0]} or --data.path."
        ) from None


def _missing_module(dataset: str, error: ImportError) -> UserError:
    if (error.name or "").split(".")[0] == "tensorflow" or "tensorflow" in str(error).lower():
        return UserError(f"TFDS dataset {dataset!r} needs TensorFlow: pip install 'transformer-train[tensorflow]'")
    return UserError(f"TFDS dataset {dataset!r} needs a module that is not installed: pip install {error.name}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
