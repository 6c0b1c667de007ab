"""Pointers of git-lfs: small text files that stand where a repository's large ones belong until they are fetched."""

from pathlib import Path

from etils import epath

from transformer.errors import UserError

_BEGINS = b"version https://git-lfs.github.com/spec/"


def check_fetched(path: Path | epath.Path) -> None:
    """Raises `UserError` where a file is a pointer; a file that is not there is none."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(_BEGINS))
    except OSError:
        return  # whoever reads it says why it cannot be read
    if begins == _BEGINS:
        raise UserError(f"{path} is a git-lfs pointer, not the file: run git lfs pull in its repository")
