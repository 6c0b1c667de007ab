"""TFDS builder of code summaries: a function's source, and the first line of its docstring, from the standard library.

The files are those of `python_stdlib`, split alike.
"""

import ast
import io
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from transformer.data.text.python_stdlib.python_stdlib_dataset_builder import VALIDATION_FRACTION, source_files
from transformer.data.text.sources import unit_hash


class Builder(tfds.core.GeneratorBasedBuilder):
    """Features: `code`, a function without its docstring; `summary`, the docstring's first line; `path`, the file."""

    VERSION = tfds.core.Version("{}.{}.{}".format(*sys.version_info[:3]))

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        return tfds.core.DatasetInfo(
            builder=self,
            description="Functions of Python's standard library and the first lines of their docstrings.",
            features=tfds.features.FeaturesDict({"code": text(), "summary": text(), "path": text()}),
            disable_shuffling=True,
            license="PSF-2.0",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing to download
        root = Path(sysconfig.get_paths()["stdlib"])
        return {split: self._generate_examples(root, split) for split in ("train", "validation")}

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
