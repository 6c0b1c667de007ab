"""Pairs in files: parallel text files in a folder, which may be compressed (.gz, .zst), or a file of any other kind.

With a validation fraction of 1, all pairs are validation, in order: a test set, which may be parallel files of any
name.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer.data import receipts
from transformer.data.pairs.lines import PairLines
from transformer.data.pairs.pairs import PairSource, check_fields
from transformer.data.pairs.split import HashSplit, numbered
from transformer.data.pairs.table import PairTable
from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.text.config import TextConfig
from transformer.data.text.lines import Lines, cut_lines, empty_note, lines_of, text_lines
from transformer.data.text.pieces import decode_utf8, digest_text
from transformer.data.text.readable import Part, Split
from transformer.data.text.readers import COMPRESSED, is_compressed, is_jsonl, is_tsv, rough_text_size
from transformer.data.text.sources import existing
from transformer.data.text.tables import is_table
from transformer.errors import UserError

_TRAIN, _VALIDATION, _TEST = ("train",), ("val", "valid", "validation", "dev"), ("test",)


class ParallelFiles(PairSource):
    """{train,val}.{xx,yy}, a pair a line: line i of one file belongs to line i of the other.

    Where all pairs are validation: those of the first of `names` that the folder has.
    """

    def __init__(self, root: Path, fields: tuple[str, str], config: TextConfig, names: tuple[str, ...] = _TEST):
        super().__init__(config.cache_dir)
        self.name, self.fields, self._fraction = str(root), fields, config.validation_fraction
        if self._fraction == 1:
            names = names if names != _TEST else (*_TEST, *_VALIDATION, *_TRAIN)
            train, validation = self._find(root, names), None
        else:
            names = _TRAIN
            train, validation = (self._find(root, names) for names in (_TRAIN, _VALIDATION))
        if train is None:
            wanted = " and ".join(f"{names[0]}.{field}" for field in fields)
            raise UserError(
                f"{root} has no {wanted} (or .gz, .zst): put them there, or name others with --data.fields."
            )
        if self._fraction == 1:
            self.name = " and ".join(map(str, train))
        self._files: dict[str, tuple[Path, Path]] = {"train": train, "validation": validation or train}
        self._is_carved = validation is None

    def _find(self, root: Path, names: tuple[str, ...]) -> tuple[Path, Path] | None:
        """Returns the two files of the first of `names` that has any; None if none has."""
        for name in names:
            paths = [_existing(root, f"{name}.{field}") for field in self.fields]
            if paths[0] is not None and paths[1] is not None:
                return paths[0], paths[1]
            for path, field in zip(paths, reversed(self.fields), strict=True):
                if path is not None:
                    raise UserError(f"{path} has no counterpart: {root / name}.{field} (or .gz, .zst) is missing.")
        return None

    @property
    def _key(self) -> tuple[object, ...]:
        return (
            "parallel",
            *(os.path.abspath(path) for split in ("train", "validation") for path in self._files[split]),
        )

    def _units(self) -> list[Unit]:
        splits = ("train",) if self._is_carved else ("train", "validation")
        return [Unit(split, tuple(os.path.abspath(path) for path in self._files[split])) for split in splits]

    @property
    def _scan(self) -> Scan:
        return functools.partial(_scan_parallel, part_bytes=self._part_bytes, is_carved=self._is_carved)

    @functools.cached_property
    def _carved(self) -> HashSplit | None:
        return HashSplit(self.facts[0], self._fraction, self.name) if self._is_carved else None

    def _hash(self) -> str:
        fraction = self._fraction if self._carved else None
        return receipts.combine("parallel", self.fields, fraction, [facts["digests"] for facts in self.facts])

    def size(self, split: Split) -> int:
        share = 1.0
        if self._is_carved:
            share = self._fraction if split == "validation" else 1 - self._fraction
        return int(share * sum(rough_text_size(path) for path in self._files[split]))

    def parts(self, split: Split) -> Sequence[Part]:
        return cut_lines(self.facts[-1 if split == "validation" else 0]["cuts"], 2)

    @property
    def notes(self) -> list[str]:
        return empty_note(self.name, sum(facts.get("empty", 0) for facts in self.facts))

    def part_pairs(self, part: Part, split: Split) -> Iterator[tuple[str, str]]:
        _, _, line, _ = part
        for number, (source, target) in enumerate(_parallel(self._files[split], part), start=line):
            if source.strip() and target.strip() and (self._carved is None or self._carved(number) == split):
                yield source, target


def _parallel(files: tuple[Path, Path], part: Lines) -> Iterator[tuple[str, str]]:
    sides = [
        text_lines(path, start, stop)
        for path, start, stop in zip(files, part.starts, part.stops or (None, None), strict=True)
    ]
    for source, target in itertools.zip_longest(*sides):
        if source is None or target is None:
            raise _unequal(files)
        yield source, target


def _unequal(files: Sequence[Path]) -> UserError:
    counts = " and ".join(f"{path} {sum(1 for _ in text_lines(path))}" for path in files)
    return UserError(f"Parallel files have as many lines; here have {counts}.")


def _scan_parallel(unit: Unit, *, part_bytes: int, is_carved: bool) -> Facts:
    """Finds the hashes of two parallel files, and where they can be cut; if they are to be split, their pairs too."""
    files = [Path(file) for file in unit.files]
    digests = [digest_text(file) for file in files]
    can_seek = not any(map(is_compressed, files))
    cuts, ends, count, empty = [[0, 0, 0, 0]], [0, 0], 0, 0
    for lines in itertools.zip_longest(*map(lines_of, files)):
        if None in lines:
            raise _unequal(files)
        # Bad text is found before hours of tokenising.
        sides = [decode_utf8(line, path, end) for line, path, end in zip(lines, files, ends, strict=True)]
        empty += not all(side.strip() for side in sides)
        sizes = [end + len(line) - begin for end, line, begin in zip(ends, lines, cuts[-1][:2], strict=True)]
        if can_seek and sum(sizes) > part_bytes and count > cuts[-1][2]:
            cuts.append([*ends, count, count])
        ends = [end + len(line) for end, line in zip(ends, lines, strict=True)]
        count += 1
    return {"digests": digests, "cuts": cuts, "empty": empty} | (numbered(count) if is_carved else {})


def open_pair_path(path: str, config: TextConfig) -> PairSource:
    """The pairs at `path`: a folder of parallel files, or a .tsv, .jsonl, .json, .csv or .parquet file; where all pairs
    are validation, also what parallel files have in common (`test` of test.en and test.de).

    Raises:
      UserError: there are none.
    """
    prefix = Path(os.path.expanduser(path))
    may_be_prefix = config.validation_fraction == 1 and prefix.name and not os.path.exists(prefix)
    if may_be_prefix and any(_existing(prefix.parent, f"{prefix.name}.{field}") for field in config.fields or ()):
        return ParallelFiles(prefix.parent, check_fields(config), config, (prefix.name,))
    root = existing(path, "a folder of parallel files, or a .tsv, .jsonl, .json, .csv or .parquet file")
    if root.is_dir():
        return ParallelFiles(root, check_fields(config), config)
    if is_tsv(root) or is_jsonl(root):
        return PairLines(root, config)
    if is_table(root):
        return PairTable(root, check_fields(config), config)
    raise UserError(
        f"{root} holds no pairs: give a folder of parallel files, or a .tsv, .jsonl, .json, .csv or .parquet file."
    )


def _existing(root: Path, name: str) -> Path | None:
    paths = (root / f"{name}{suffix}" for suffix in ("", *COMPRESSED))
    return next((path for path in paths if os.path.isfile(path)), None)  # pathlib's raises for a long name
