"""Examples that need no files: made of Python's own standard library, and so exact."""

import ast
import functools
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from transformer.data.examples.defaults import defaults
from transformer.data.examples.definitions import definitions
from transformer.data.examples.next_lines import next_lines
from transformer.data.examples.rows import Row
from transformer.data.text.python_docstrings.python_docstrings_dataset_builder import summaries
from transformer.data.text.python_stdlib.python_stdlib_dataset_builder import VALIDATION_FRACTION, source_files
from transformer.data.text.sources import unit_hash
from transformer.errors import UserError

Values = dict[str, object]


def embedded_rows(name: str) -> dict[str, list[Row]]:
    """Returns split -> the rows of an embedded set, divided by file; UserError for an unknown name."""
    if name not in SETS:
        raise UserError(f"--data.embedded {name!r}: known are {', '.join(SETS)}")
    return _divided(SETS[name])


@functools.lru_cache(maxsize=4)
def _divided(of_file: Callable[[ast.Module, str], Iterator[Values]]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {"train": [], "validation": []}
    for path, text in source_files(Path(sysconfig.get_paths()["stdlib"])):
        tree = _parsed(text)
        if tree is not None:
            split = "validation" if unit_hash(path) < VALIDATION_FRACTION else "train"
            rows[split] += [Row(path, values) for values in of_file(tree, text)]
    return rows


def _parsed(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a string: not ours to mend
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError):
            return None


def _docstrings(tree: ast.Module, text: str) -> Iterator[Values]:
    """Yields the first line of each docstring, and what it describes."""
    del text
    kinds = {ast.Module: "module", ast.ClassDef: "class", ast.FunctionDef: "function", ast.AsyncFunctionDef: "function"}
    for node in ast.walk(tree):
        kind = kinds.get(type(node))
        docstring = ast.get_docstring(node) if kind else None  # type: ignore[arg-type]
        if docstring and (first := docstring.strip().partition("\n")[0].strip()):
            yield {"text": first, "label": kind}


def _summaries(tree: ast.Module, text: str) -> Iterator[Values]:
    """Yields the first line of each function's docstring, and the function without it."""
    del tree
    for code, summary in summaries(text):
        if summary:
            yield {"text": summary, "pair": code}


SETS: dict[str, Callable[[ast.Module, str], Iterator[Values]]] = {
    "docstrings": _docstrings,
    "summaries": _summaries,
    "definitions": definitions,
    "defaults": defaults,
    "next_lines": lambda tree, text: next_lines(text),
}
"""Name, as --data.embedded has it -> the rows of a file."""
