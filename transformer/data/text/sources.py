"""Where documents come from: text, JSONL and tables, folders of them. TFDS datasets are in `tfds_source`.

A source has two splits, "train" and "validation". A single text file is one document, whose last part is validation;
other corpora are split by document, by a hash of its name or index, so that adding documents does not reshuffle the
others. With a validation fraction of 1 all of it is validation, in order: what is evaluated on, never trained on. A
source is opened without reading it; what the split and the cuts need is read once, into a receipt.
"""

import abc
import functools
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer.data import receipts
from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.text import tables
from transformer.data.text.config import TextConfig
from transformer.data.text.jsonl import jsonl_lines, jsonl_text
from transformer.data.text.pieces import Piece, decode_utf8, digest_text, file_pieces, whole_document
from transformer.data.text.readable import Part, Readable, Split
from transformer.data.text.readers import is_compressed, is_csv, is_json, is_jsonl, is_tsv, open_text, text_size
from transformer.errors import UserError

_PLACES = 256  # into which a text file is cut for sampling
_LINE_BYTES = 1 << 20


class Source(Readable):
    """Documents of a corpus, read lazily."""

    @abc.abstractmethod
    def part_pieces(self, part: Part, split: Split) -> Iterator[Piece]:
        """Returns the documents of a split in a part, in order, as pieces; UserError where the text cannot be read."""

    def places(self, split: Split) -> Sequence[Part]:
        """Parts again, but smaller ones where that costs no reading: for sampling."""
        return self.parts(split)

    def pieces(self, split: Split) -> Iterator[Piece]:
        """Returns the documents of a split in a fixed order, as pieces: those of its parts, one after the other."""
        return itertools.chain.from_iterable(self.part_pieces(part, split) for part in self.parts(split))


def unit_hash(key: str) -> float:
    """Returns a number in [0, 1) that depends on `key` alone: the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def choose_split(hashed: float, fraction: float, lowest: float, highest: float) -> Split:
    """Validation if the document's hash is below `fraction`; the extremes of a small corpus are forced to opposite
    sides, so that neither side is ever empty. With a fraction of 1, all are validation."""
    if hashed == lowest or fraction == 1:
        return "validation"
    return "validation" if hashed < fraction and hashed != highest else "train"


def extremes(keys: Iterable[str]) -> tuple[float, float] | None:
    """Returns the lowest and the highest hash of documents, which are read one at a time; None where there are none."""
    lowest, highest = 2.0, -1.0
    for key in keys:
        hashed = unit_hash(key)
        lowest, highest = min(lowest, hashed), max(highest, hashed)
    return None if highest < 0 else (lowest, highest)


class TextFile(Source):
    """One plain text file: one document, whose last `validation_fraction`, cut at a line, is validation."""

    def __init__(self, path: Path, validation_fraction: float, cache_dir: str):
        super().__init__(cache_dir)
        self.name = str(path)
        self._path, self._fraction = path, validation_fraction

    @property
    def _key(self) -> tuple[object, ...]:
        return ("text-file", os.path.abspath(self._path), self._fraction)

    def _units(self) -> list[Unit]:
        return [Unit("", (os.path.abspath(self._path),))]

    @property
    def _scan(self) -> Scan:
        return functools.partial(_scan_text, fraction=self._fraction)

    def _range(self, split: Split) -> tuple[int, int]:
        [facts] = self.facts
        return (0, facts["cut"]) if split == "train" else (facts["cut"], facts["bytes"])

    def _hash(self) -> str:
        [facts] = self.facts
        return receipts.combine("text-file", facts["cut"], facts["digests"])

    def size(self, split: Split) -> int:
        start, stop = self._range(split)
        return stop - start

    def parts(self, split: Split) -> Sequence[Part]:
        return [self._range(split)]

    def places(self, split: Split) -> Sequence[Part]:
        start, stop = self._range(split)
        if is_compressed(self._path):
            return [(start, stop)]
        cuts = (_next_line(self._path, start + (stop - start) * i // _PLACES, stop) for i in range(1, _PLACES))
        return list(itertools.pairwise(sorted({start, stop, *cuts})))

    def part_pieces(self, part: Part, split: Split) -> Iterator[Piece]:
        return file_pieces(self._path, *part)


def _scan_text(unit: Unit, *, fraction: float) -> Facts:
    path = Path(unit.files[0])
    digest, size = digest_text(path), text_size(path)
    return {"digests": [digest], "bytes": size, "cut": _find_cut(path, size, fraction)}


def _next_line(path: Path, place: int, stop: int) -> int:
    """Returns the first line after byte `place`, if it is near, else `stop`."""
    with open_text(path, place) as file:
        line = file.readline(_LINE_BYTES)
        return min(place + len(line), stop) if line.endswith(b"\n") else stop


def _find_cut(path: Path, size: int, fraction: float) -> int:
    """Returns where the validation text of a text file begins: at a line, if the text has more than one near there."""
    if not size:
        raise UserError(f"{path} is empty.")
    if fraction == 1:
        return 0
    target = min(int(size * (1 - fraction)), size - 1)
    with open_text(path, target) as file:
        line = file.readline()
        cut = target + len(line)
        if cut >= size:  # the file's last line: cut inside it, but between characters
            ahead = line[:4]
            cut = target + next((i for i, byte in enumerate(ahead) if byte & 0xC0 != 0x80), len(ahead))
    if not 0 < cut < size:
        raise UserError(f"{path} ({size} bytes) is too small to split into training and validation text.")
    return cut


class Range(NamedTuple):
    """Bytes [start, stop) of a file of a collection."""

    file: int
    start: int
    stop: int
    line: int
    """The number of the first line, from 0."""


class FileCollection(Source):
    """Files under a root: a document a text file, a JSONL line or a row of a Parquet file; split by document."""

    def __init__(self, root: Path, files: list[Path], config: TextConfig):
        super().__init__(config.cache_dir)
        self.name = str(root)
        self._root, self._files = root, files
        self._fraction, self._field = config.validation_fraction, config.text_field

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix() if path != self._root else ""

    @property
    def _key(self) -> tuple[object, ...]:
        # Records of these kinds were once read as text: what was found in them then is not what is there.
        records = any(map(_read_as_text_once, self._files))
        return ("files", os.path.abspath(self._root), *(("records",) if records else ()))

    def _units(self) -> list[Unit]:
        return [Unit(self._relative(path), (os.path.abspath(path),)) for path in self._files]

    @property
    def _scan(self) -> Scan:
        return functools.partial(_scan_file, part_bytes=self._part_bytes)

    def _split(self, key: str) -> Split:
        return choose_split(unit_hash(key), self._fraction, *self._extremes)

    @functools.cached_property
    def _extremes(self) -> tuple[float, float]:
        ranges = [facts["extremes"] for facts in self.facts if facts["extremes"] is not None]
        lowest, highest = min((low for low, _ in ranges), default=0.0), max((high for _, high in ranges), default=0.0)
        if lowest == highest and (self._fraction < 1 or not ranges):
            count = min(len(ranges), 1)
            raise UserError(
                f"{self.name} holds {count} document(s): two are needed, one to train on and one to validate."
            )
        return lowest, highest

    def _hash(self) -> str:
        names = [self._relative(path) for path in self._files]
        digests = [facts["digests"] for facts in self.facts]
        _ = self._extremes  # a corpus that cannot be split has no use for a fingerprint
        kinds = [name for name, path in zip(names, self._files, strict=True) if _read_as_text_once(path)]
        return receipts.combine("files", self._fraction, self._field, names, digests, *([kinds] if kinds else []))

    def size(self, split: Split) -> int:
        total = sum(facts["bytes"] for facts in self.facts)
        return int(total * (self._fraction if split == "validation" else 1 - self._fraction))

    def parts(self, split: Split) -> Sequence[Part]:
        """Ranges of consecutive files together, or of one large file."""
        parts: list[list[Range]] = [[]]
        room = self._part_bytes
        for number, facts in enumerate(self.facts):
            cuts, size = facts["cuts"], facts["bytes"]
            for (start, line), (stop, _) in itertools.pairwise([*cuts, (size, 0)]):
                if stop - start > room and parts[-1]:
                    parts.append([])
                    room = self._part_bytes
                parts[-1].append(Range(number, start, stop, line))
                room -= stop - start
        return parts

    def places(self, split: Split) -> Sequence[Part]:
        return [[place] for part in self.parts(split) for place in part]

    def part_pieces(self, part: Part, split: Split) -> Iterator[Piece]:
        for number, start, stop, first in part:
            path = self._files[number]
            name = self._relative(path)
            if tables.is_table(path):
                for index, (text,) in tables.texts(path, [self._field], start, stop, "--data.text-field"):
                    if self._split(f"{name}:{index}") == split:
                        yield from whole_document(text)
            elif is_jsonl(path):
                for index, offset, line in jsonl_lines(path, start, stop, first):
                    if self._split(f"{name}:{index}") == split:
                        text = jsonl_text(decode_utf8(line, path, offset), f"{path}:{index + 1}", self._field)
                        yield from whole_document(text)
            elif self._split(name) == split:
                yield from file_pieces(path, start, stop)


def _scan_file(unit: Unit, *, part_bytes: int) -> Facts:
    """Finds a file's hash, its documents' extreme hashes, and where it can be cut: [byte, number of the line] each."""
    path = Path(unit.files[0])
    digest = tables.digest(path)
    if tables.is_table(path):
        table = tables.layout(path)
        cuts = [list(group) for group in table.cuts(part_bytes)]
        hashes = extremes(f"{unit.name}:{row}" for row in range(table.rows))
        return {"digests": [digest], "bytes": table.size, "extremes": hashes and list(hashes), "cuts": cuts}
    size = text_size(path)
    if not is_jsonl(path):
        hashes = [unit_hash(unit.name)] * 2 if size else None
        return {"digests": [digest], "bytes": size, "extremes": hashes, "cuts": [[0, 0]]}
    cuts, can_seek = [[0, 0]], not is_compressed(path)

    def keys() -> Iterator[str]:
        for index, offset, line in jsonl_lines(path, 0, size, 0):
            if can_seek and offset > cuts[-1][0] and offset + len(line) - cuts[-1][0] > part_bytes:
                cuts.append([offset, index])
            yield f"{unit.name}:{index}"

    hashes = extremes(keys())
    return {"digests": [digest], "bytes": size, "extremes": hashes and list(hashes), "cuts": cuts}


def _read_as_text_once(path: Path) -> bool:
    return is_json(path) or is_csv(path) or is_tsv(path)


def existing(path: str, kinds: str) -> Path:
    """Returns the file or folder that `path` names; UserError where there is none, which lists the `kinds` to give."""
    if not path:
        raise UserError(f"--data.path is empty: set it to {kinds}.")
    root = Path(os.path.expanduser(path))
    if not os.path.exists(root):
        hint = " (patterns are not expanded: name the folder)" if any(mark in path for mark in "*?[") else ""
        raise UserError(f"{root}: no such file or folder{hint}. Set --data.path to {kinds}.")
    return root


def open_path(path: str, config: TextConfig) -> Source:
    """Returns the source at `path`: text, records, or a folder of them; UserError if there is none or it is empty."""
    root = existing(path, "a text, .jsonl, .json, .csv or .parquet file, or a folder of them")
    if root.is_dir():
        there = sorted(p for p in root.rglob("*") if p.is_file() and not _hidden(p.relative_to(root)))
        if not there:
            raise UserError(
                f"{root} holds no text files. Put .txt or .jsonl files there, or set --data.path to another folder."
            )
        files = [p for p in there if p.stat().st_size > 0]
        if not files:
            raise UserError(f"{root}: its {len(there)} file(s) are all empty.")
    else:
        files = [root]
        if root.stat().st_size == 0:
            raise UserError(f"{root} is empty.")
    if len(files) == 1 and not is_jsonl(files[0]) and not tables.is_table(files[0]):
        return TextFile(files[0], config.validation_fraction, config.cache_dir)
    return FileCollection(root, files, config)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)
