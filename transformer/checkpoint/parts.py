"""A file that grows in an object store, where files cannot: it lies there in parts.

The first part bears the file's own name, `metrics.jsonl`; each later one also the place of its first byte in the whole,
`metrics.jsonl.part-000000262144`. A part that does not begin where the ones before it end is a leftover, and no part.
"""

from etils import epath

from transformer.checkpoint.seal import is_local

_PART = ".part-"


def part(path: epath.Path, start: int) -> epath.Path:
    """Returns where the part lies that begins at byte number `start`."""
    return path if start == 0 else path.parent / f"{path.name}{_PART}{start:012d}"


def read(path: epath.Path) -> bytes:
    """Returns a file's content, joined from its parts where it has some.

    Raises:
      FileNotFoundError: there is none.
    """
    content = path.read_bytes()
    for place in later(path):
        if place.name == part(path, len(content)).name:
            content += place.read_bytes()
    return content


def later(path: epath.Path) -> list[epath.Path]:
    """Returns what there is of parts but the first, and of leftovers, in order; asks for one listing. None if local."""
    if is_local(path):
        return []
    prefix = f"{path.name}{_PART}"
    return sorted((place for place in path.parent.iterdir() if place.name.startswith(prefix)), key=lambda p: p.name)
