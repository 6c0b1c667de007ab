"""JSONL: an object a line, and the text of one of its fields."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer.data.text.readers import BOM, raw_lines
from transformer.errors import UserError


def jsonl_lines(path: Path, start: int, stop: int, first: int) -> Iterator[tuple[int, int, bytes]]:
    """Yields the lines in bytes [start, stop) of a file's text that are not blank: number, byte and content of each."""
    offset = start
    for index, line in enumerate(raw_lines(path, start, stop), start=first):
        if (line if offset else line.removeprefix(BOM)).strip():
            yield index, offset, line
        offset += len(line)


def jsonl_text(line: str, where: str, field: str, flag: str = "--data.text-field") -> str:
    """Returns the text of a field of a line; UserError says `where` it has none, and the flag that names the field."""
    return field_text(parsed(line, where), where, field, flag)


def parsed(line: str, where: str) -> Any:
    """Returns the JSON of a line; UserError says `where` there is none."""
    try:
        return json.loads(line.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON ({error.msg} at column {error.colno}). A .jsonl file has one object a line; "
            "a .json file too, or one array; to read it as plain text, name it .txt."
        ) from None
    except RecursionError:
        raise UserError(f"{where}: its JSON is nested too deeply to be read. Remove the line.") from None
    except ValueError as error:  # an integer of more digits than Python reads
        reason = str(error).partition(";")[0]
        raise UserError(f"{where}: its JSON cannot be read ({reason}). Remove the line.") from None


def field_text(record: Any, where: str, field: str, flag: str) -> str:
    """Returns the text of a field of a parsed JSON object, or of an object in it (`translation.en`); UserError says
    `where` it has none.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where}: a {type(record).__name__}, not an object: each must be one JSON object.")
    holder, name = record, field
    while name not in holder:
        outer, _, inner = name.partition(".")
        if not (inner and isinstance(holder.get(outer), dict)):
            raise UserError(f"{where}: no field {field!r}; its fields are: {_names(record)}. Name one with {flag}.")
        holder, name = holder[outer], inner
    if not isinstance(holder[name], str):
        raise UserError(f"{where}: field {field!r} is a {type(holder[name]).__name__}, not a string. Set {flag}.")
    return utf8_text(holder[name])


def _names(record: dict[str, Any]) -> str:
    """Returns the names of fields, and of those in objects."""
    names = []
    for name, value in record.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) and value else [name]
    return ", ".join(sorted(names)) or "none"


def utf8_text(text: str) -> str:
    """The text without lone surrogates: they are legal in JSON ("\\ud800") but are no text, and have no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
