"""Files that are read by rows: Parquet, .csv and .tsv files with a header, JSON arrays. Parquet alone can be cut."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer.data.receipts import hash_file
from transformer.data.text import delimited, json_array, parquet
from transformer.data.text.parquet import Group, Layout
from transformer.data.text.pieces import digest_text
from transformer.data.text.readers import is_csv, is_json_array, is_parquet, is_tsv, text_size


def is_table(path: Path) -> bool:
    """Whether a file's documents are rows of it, and not its lines."""
    return is_parquet(path) or is_csv(path) or is_tsv(path) or is_json_array(path)


def layout(path: Path) -> Layout:
    """Returns how the file is divided; reads all of it, where it is not Parquet."""
    if is_parquet(path):
        return parquet.layout(path)
    rows = json_array.count_items(path) if is_json_array(path) else delimited.count_rows(path)
    return Layout([Group(0, 0)] if rows else [], text_size(path), rows)


def texts(
    path: Path, columns: Sequence[str], start: int, stop: int, flag: str
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Returns number and texts of each row that begins in [start, stop), as `Layout` counts; see `parquet.texts`."""
    if is_parquet(path):
        return parquet.texts(path, columns, start, stop, flag)
    return json_array.texts(path, columns, flag) if is_json_array(path) else delimited.texts(path, columns, flag)


def digest(path: Path) -> str:
    """Returns a hash of the file's content; UserError where it cannot be read."""
    return hash_file(path) if is_parquet(path) else digest_text(path)
