"""A sentence-transformers folder: modules.json lists the steps from the words' vectors to a sentence's vector.

Only the transformer among the modules has weights; the settings of the others are kept with the checkpoint and go out
again as they came. https://sbert.net, "Creating Custom Models", has the layout.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from transformer.errors import UserError
from transformer.interop.files import parse_json, read_json

MODULES = "modules.json"

_KNOWN = ("Transformer", "Pooling", "Normalize")
"""The library's classes without weights of their own, the transformer aside; releases move them between modules."""

_SETTINGS = ("config_sentence_transformers.json", *(f"sentence_{kind}_config.json" for kind in (
    "bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet",
)))  # fmt: skip
"""Files beside modules.json: prompts and similarity; the longest text, under the names of older releases too."""

_WIDTHS = ("embedding_dimension", "word_embedding_dimension")
_MODE = "pooling_mode_"


@dataclasses.dataclass(frozen=True)
class Module:
    """An entry of modules.json."""

    path: str
    """Folder of its settings; "" is the model's own."""
    kind: str
    """Its class, with the Python module that it is of."""

    @property
    def name(self) -> str:
        """Name of the class alone where it is known, else with its Python module."""
        package, _, name = self.kind.rpartition(".")
        return name if package.split(".")[0] == "sentence_transformers" and name in _KNOWN else self.kind


def modules(folder: Path) -> list[Module]:
    """Returns the modules that modules.json lists, in order; empty where there is no such file.

    Raises:
      UserError: the file is no such list, or the transformer is not in the folder itself.
    """
    path = folder / MODULES
    if not path.exists():
        return []
    entries = parse_json(path)
    listed = [_module(path, entry) for entry in entries] if isinstance(entries, list) else []
    if not listed or listed[0].name != "Transformer":
        raise UserError(f"{path}: not a list of sentence-transformers modules that begins with a Transformer")
    if listed[0].path:
        raise UserError(f"{path}: the transformer lies in a folder of its own: give {folder / listed[0].path}")
    return listed


def _module(path: Path, entry: Any) -> Module:
    where, kind = (entry.get(name) if isinstance(entry, Mapping) else None for name in ("path", "type"))
    if not isinstance(where, str) or not isinstance(kind, str):
        raise UserError(f"{path}: {entry!r} is no module with a path and a type")
    if PurePosixPath(where).is_absolute() or ".." in PurePosixPath(where).parts:
        raise UserError(f"{path} names a folder outside of its own: {where!r}")
    return Module(where, kind)


def read(folder: Path, width: int) -> tuple[dict[str, bytes], str]:
    """Returns the files of sentence-transformers in a folder, by name, and a description of the modules.

    There are no files without modules.json, nor where it lists an unknown module, which the description then names.

    Args:
      folder: a folder in the Hugging Face format.
      width: width of the words' vectors.

    Raises:
      UserError: modules.json or the settings of a module do not fit.
    """
    listed = modules(folder)
    if not listed:
        return {}, ""
    unknown = [module.name for module in listed[1:] if module.name not in _KNOWN[1:] or not module.path]
    if unknown:
        return {}, f"left out: {MODULES} has what is not known here: {', '.join(unknown)}"
    kept, words = [MODULES, *_SETTINGS], []
    for module in listed[1:]:
        kept.append(name := f"{module.path}/config.json")
        words.append(_pooled(folder / name, width) if module.name == "Pooling" else "normalised")
    files = {name: (folder / name).read_bytes() for name in kept if (folder / name).exists()}
    return files, ", ".join(words)


def _pooled(path: Path, width: int) -> str:
    """Returns a description of how words' vectors become one; raises `UserError` where they have another width."""
    settings = read_json(path)
    for name in _WIDTHS:
        if settings.get(name, width) != width:
            raise UserError(f"{path}: {name} = {settings[name]!r}, and the model's vectors have {width} values")
    flags = [name.removeprefix(_MODE) for name, value in settings.items() if name.startswith(_MODE) and value is True]
    return f"pooled by {' and '.join(flags) or settings.get('pooling_mode', 'mean')}"
