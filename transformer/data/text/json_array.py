"""A .json file that is one array: of texts, or of objects with a text in a field, read one at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformer.data.text.jsonl import field_text, utf8_text
from transformer.data.text.readers import BOM, open_text
from transformer.errors import UserError

_DEEPEST = 1000
"""Brackets inside each other that an item may have, about as many as Python's own reader takes of a line of JSONL."""


def texts(path: Path, fields: Sequence[str], flag: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the number of each item, from 0, and the texts of its fields; an item that is a string is a text itself.

    Raises:
      UserError: the file is not JSON, or an item has no such texts.
    """
    for index, item in items(path):
        if isinstance(item, str) and len(fields) == 1:
            yield index, (utf8_text(item),)
        else:
            where = f"{path}: item {index + 1}"
            yield index, tuple(field_text(item, where, field, flag) for field in fields)


def count_items(path: Path) -> int:
    """Returns how many items an array has; UserError where the file is not JSON."""
    return sum(1 for _ in items(path))


def items(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields the items of the array, parsed, with their numbers."""
    import ijson

    index, depth, builder = 0, 0, ijson.ObjectBuilder()
    with open_text(path) as file:
        file.seek(len(BOM) if file.peek(len(BOM)).startswith(BOM) else 0)  # type: ignore[attr-defined]
        try:
            # Not ijson.items, which writes down the path to each value: gigabytes, where brackets are nested deeply.
            for event, value in ijson.basic_parse(file, use_float=True):
                depth += event.startswith("start_") - event.startswith("end_")
                if depth > _DEEPEST:
                    raise ValueError("nested too deeply")
                if (event == "start_array" and depth == 1) or depth == 0:
                    continue  # the array itself
                builder.event(event, value)
                if depth == 1:
                    yield index, builder.value
                    index, builder = index + 1, ijson.ObjectBuilder()
        except (ijson.JSONError, ValueError, OverflowError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
            raise UserError(f"{path}: not JSON that can be read, after item {index} ({reason}).") from None
