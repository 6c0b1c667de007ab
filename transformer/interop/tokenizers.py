"""Conversion of a folder's tokenizer files in the Hugging Face format to one of our tokenizers, and back."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from etils import epath
from tokenizers import Tokenizer as Library

from transformer.checkpoint import to_json
from transformer.errors import UserError
from transformer.interop.files import read_json
from transformer.interop.tokenizer_build import build
from transformer.interop.tokenizer_declared import JSON, TOKENIZER, Declared, read_declared
from transformer.interop.tokenizer_marian import marian_settings
from transformer.tokenizers.huggingface import HuggingFaceTokenizer
from transformer.tokenizers.kinds import AS_IMPORTED, check_vocabulary, load_tokenizer
from transformer.tokenizers.marian import FILES, MarianTokenizer
from transformer.tokenizers.tokenizer import CHAT_TEMPLATE, Tokenizer
from transformer.tokenizers.vocabulary import Vocabulary

# Files that Transformers' tokenizers and feature extractors read, and the defaults of generation.
_KEPT = (
    JSON,
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    CHAT_TEMPLATE,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "source.spm",
    "target.spm",
)


def files(folder: Path) -> dict[str, bytes]:
    """Returns name -> content of a folder's tokenizer files."""
    return {name: (folder / name).read_bytes() for name in _KEPT if (folder / name).exists()}


def read(folder: Path, vocab_size: int | None = None) -> tuple[dict[str, bytes], list[str]]:
    """Returns the files of our tokenizer for a folder's, and notes on its source or on why there is none.

    The ids are those of Transformers' AutoTokenizer on the same folder.

    Args:
      folder: a folder in the Hugging Face format.
      vocab_size: rows of the model's vocabulary: ids beyond get a note; None: not known.
    """
    try:
        tokenizer, notes = _made(folder)
        tokenizer.chat_template = chat_template(folder)
    except UserError as error:
        return {}, [f"left out: {error}"]
    try:
        check_vocabulary(tokenizer, tokenizer.vocab_size if vocab_size is None else vocab_size, AS_IMPORTED)
    except UserError as error:
        notes.append(f"refused where it is used: {error}")
    with tempfile.TemporaryDirectory() as saved:
        tokenizer.save(saved)
        return {file.name: file.read_bytes() for file in Path(saved).iterdir()}, notes


def chat_template(folder: Path) -> str | None:
    """Returns the chat template of a folder: its file, else the one that tokenizer_config.json holds or calls default.

    Raises:
      UserError: tokenizer_config.json has what is no template.
    """
    if (file := folder / CHAT_TEMPLATE).exists():
        return file.read_text(encoding="utf-8")
    held = read_json(folder / TOKENIZER).get("chat_template") if (folder / TOKENIZER).exists() else None
    if isinstance(held, list):
        try:
            held = {item["name"]: item["template"] for item in held}.get("default")
        except (TypeError, KeyError):
            raise UserError(f"{folder / TOKENIZER}: chat_template is a list of other things than templates") from None
    if not isinstance(held, str | None):
        raise UserError(f"{folder / TOKENIZER}: chat_template is no text")
    return held


def export(folder: epath.Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Returns a run's tokenizer as files for Transformers, and its special ids as fields of config.json."""
    if not folder.exists():
        return {}, {}
    tokenizer = load_tokenizer(str(folder))
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    content = {file.name: file.read_bytes() for file in folder.iterdir() if file.name in _KEPT}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        names = {"tokenizer_class": "PreTrainedTokenizerFast", **_names_of_specials(tokenizer)}
        content["tokenizer_config.json"] = to_json(names)
    return content, ids


def _names_of_specials(tokenizer: HuggingFaceTokenizer) -> dict[str, str | None]:
    """Returns the specials by Transformers' role names (mask_token, ...), which a tokenizer.json does not hold."""
    vocabulary = Vocabulary.of(tokenizer)
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    if tokenizer.pad_id != tokenizer.eos_id:  # there is a padding token
        ids["pad_token"] = tokenizer.pad_id
    if vocabulary.mask_id is not None:
        ids |= {"mask_token": vocabulary.mask_id, "cls_token": vocabulary.cls, "sep_token": vocabulary.sep}
    return {name: tokenizer.name_of(token) for name, token in ids.items()}


def _made(folder: Path) -> tuple[Tokenizer, list[str]]:
    declared = read_declared(folder)
    if declared.kind == "MarianTokenizer":
        return MarianTokenizer.read(folder, marian_settings(declared)), [f"from {', '.join(FILES[:2])} and {FILES[2]}"]
    built = build(declared)
    data, differs = _serialised(built.tokenizer, declared)
    settings: dict[str, Any] = dict(built.specials)
    if declared.options.get("split_special_tokens"):
        settings["split_special_tokens"] = True
    notes = [f"from {built.source}"]
    if differs:
        parts = ", ".join(differs)
        notes.append(f"{parts}: as Transformers' {declared.kind} has it by the other files, not as {JSON} has it")
    for number, token in sorted(declared.added.items()):
        if (given := built.tokenizer.token_to_id(token.content)) != number:
            notes.append(
                f"{declared.added_from} gives {token.content!r} the id {number}; Transformers numbers it {given}"
            )
    return HuggingFaceTokenizer(data, str(folder / built.source), settings), notes


def _serialised(tokenizer: Library, declared: Declared) -> tuple[bytes, list[str]]:
    """Returns a tokenizer.json, the folder's own if equivalent, and the parts in which it differs from that."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    serialised = tokenizer.to_str()
    if declared.file is None:
        return serialised.encode(), []
    content = (declared.folder / JSON).read_bytes()
    own = Library.from_str(content.decode())
    own.no_truncation()
    own.no_padding()
    ours, theirs = json.loads(serialised), json.loads(own.to_str())
    differs = [part for part in ours if not _equal(ours[part], theirs.get(part))]
    return (serialised.encode() if differs else content), differs


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two parts of a tokenizer.json are equal, scores up to the last bit."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-14)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_equal(value, theirs[name]) for name, value in ours.items())
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    return ours == theirs
