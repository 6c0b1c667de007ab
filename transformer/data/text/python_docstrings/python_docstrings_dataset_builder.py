"""TFDS builder of code summaries: a function's source, and the first line of its docstring, from the standard library.

The files are those of `python_stdlib`, split alike.
"""

import ast
import io
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

from transformer.data.text.python_stdlib.python_stdlib_dataset_builder import (
    VALIDATION_FRACTION,
    LibraryBuilder,
    source_files,
)
from transformer.data.text.sources import unit_hash


class Builder(LibraryBuilder):
    """Features: `code`, a function without its docstring; `summary`, the docstring's first line; `path`, the file."""

    DESCRIPTION = "Functions of Python's standard library and the first lines of their docstrings."
    FEATURES = ("code", "summary", "path")

    def _generate_examples(self, root: Path, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        files = source_files(root)
        chosen = (
            (path, text)
            for path, text in files
            if split == ("validation" if unit_hash(path) < VALIDATION_FRACTION else "train")
        )
        pairs = ((path, pair) for path, text in chosen for pair in summaries(text))
        for index, (path, (code, summary)) in enumerate(pairs):
            yield index, {"code": code, "summary": summary, "path": path}


def summaries(text: str) -> Iterator[tuple[str, str]]:
    """(code, summary) of each function of a file that has a docstring and more, in the order of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a string: not ours to mend
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return
    lines = io.StringIO(text, newline=None).readlines()  # not splitlines: to Python a form feed ends no line
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in sorted(functions, key=lambda node: node.lineno):
        docstring = ast.get_docstring(node)
        if not docstring or len(node.body) < 2:
            continue
        first, then = node.body[:2]
        if first.lineno <= node.lineno or not first.end_lineno or then.lineno <= first.end_lineno:
            continue  # several statements on a line
        code = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
        yield textwrap.dedent("".join(code)).rstrip("\n"), docstring.strip().splitlines()[0].strip()
