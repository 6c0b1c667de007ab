"""Vocabularies of a folder's tokenizer files, as models of the `tokenizers` library."""

import base64
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tokenizers import AddedToken, models

from transformer.errors import UserError
from transformer.interop.tokenizer_declared import FURTHER, JSON, Declared
from transformer.tokenizers.sentencepiece_model import Pieces, read_pieces


def word_pieces(declared: Declared, unknown: str) -> tuple[models.Model, str]:
    if declared.file is not None:
        vocabulary = declared.file["model"]["vocab"]
        return models.WordPiece(_numbered(vocabulary), unk_token=unknown), JSON
    path = _needed(declared, "vocab.txt")
    return models.WordPiece(models.WordPiece.read_file(str(path)), unk_token=unknown), path.name


def byte_pairs(declared: Declared, **options: Any) -> tuple[models.Model, str]:
    if declared.file is not None:
        model = declared.file["model"]
        pairs: list[Any] = [
            tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model.get("merges", ())
        ]
        return models.BPE(vocab=_numbered(model["vocab"]), merges=pairs, **options), JSON
    path, merges = _needed(declared, "vocab.json"), _needed(declared, "merges.txt")
    vocabulary, pairs = models.BPE.read_file(str(path), str(merges))
    return models.BPE(vocab=vocabulary, merges=pairs, **options), f"{path.name} and {merges.name}"


def _numbered(vocabulary: Any) -> dict[str, int]:
    """Returns the ids of a vocabulary, which a file has as an object, or as a list with or without scores."""
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece[0] if isinstance(piece, list) else piece: i for i, piece in enumerate(vocabulary)}


def _needed(declared: Declared, *names: str) -> Path:
    """Returns the first of these files that the folder has."""
    for name in names:
        if (declared.folder / name).exists():
            return declared.folder / name
    wanted = " or ".join((JSON, *names))
    raise UserError(f"{declared.folder}: a {declared.kind} needs {wanted}")


def sentencepiece(declared: Declared, *names: str) -> tuple[Pieces, bytes, str]:
    path = _needed(declared, *names)
    content = path.read_bytes()
    try:
        return read_pieces(content), content, path.name
    except DecodeError:
        raise UserError(f"{path} is not a SentencePiece model") from None


def symbols(pieces: Pieces) -> list[str | AddedToken]:
    return [AddedToken(piece, normalized=False, special=special) for piece, special in pieces.symbols]


def merges(ids: dict[str, int]) -> list[tuple[str, str]]:
    """Returns the merges of a SentencePiece model of byte pairs, which the order of its pieces implies."""
    ordered = sorted(ids, key=ids.__getitem__)
    return [
        (piece[:i], piece[i:])
        for piece in ordered
        for i in range(1, len(piece))
        if piece[:i] in ids and piece[i:] in ids
    ]


def scored(
    declared: Declared, *names: str
) -> tuple[list[tuple[str, float]], bytes, list[str | AddedToken] | None, str]:
    """Returns a unigram model's pieces with scores, its table of replacements, its symbols, and its file's name."""
    if declared.file is not None:
        vocabulary = [(piece, score) for piece, score in declared.file["model"]["vocab"]]
        return vocabulary, _charsmap(declared.file.get("normalizer") or {}), declared.options.get(FURTHER), JSON
    pieces, _, source = sentencepiece(declared, *names)
    return pieces.scored, pieces.charsmap, symbols(pieces), source


def _charsmap(normalizer: dict[str, Any]) -> bytes:
    """Returns the first table of replacements in the normaliser of a tokenizer.json."""
    parts = normalizer.get("normalizers", [normalizer]) if normalizer.get("type") == "Sequence" else [normalizer]
    precompiled = next((part for part in parts if part.get("type") == "Precompiled"), {})
    return base64.b64decode(precompiled.get("precompiled_charsmap") or "")
