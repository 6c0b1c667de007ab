"""A .json file that is one array: of texts, or of objects with a text in a field, read one at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformer.data.jsonl import field_text, utf8_text
from transformer.data.readers import BOM, open_text
from transformer.errors import UserError


def texts(path: Path, fields: Sequence[str], flag: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The number of each item, from 0, and the texts of its fields; an item that is a string is a text itself.

    Raises:
      UserError: the file is not JSON, or an item has no such texts.
    """
    for index, item in _items(path):
        if isinstance(item, str) and len(fields) == 1:
            yield index, (utf8_text(item),)
        else:
            where = f"{path}: item {index + 1}"
            yield index, tuple(field_text(item, where, field, flag) for field in fields)


def count_items(path: Path) -> int:
    """How many items an array has; UserError where the file is not JSON."""
    return sum(1 for _ in _items(path))


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    import ijson

    index = 0
    with open_text(path) as file:
        file.seek(len(BOM) if file.peek(len(BOM)).startswith(BOM) else 0)  # type: ignore[attr-defined]
        try:
            for index, item in enumerate(ijson.items(file, "item", use_float=True)):
                yield index, item
        except (ijson.JSONError, ValueError, RecursionError, OverflowError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
            raise UserError(f"{path}: not JSON after item {index + 1} ({reason}).") from None
