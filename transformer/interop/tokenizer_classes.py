"""The tokenizer that a folder's files mean, built with the `tokenizers` library as Transformers 5's classes build it.

A class makes its normaliser, pre-tokeniser and decoder from its options; of a tokenizer.json it takes the vocabulary and
the template alone. `TokenizersBackend` takes the whole file.
"""

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from transformer.data.sentencepiece_model import Pieces, read_pieces, read_spec
from transformer.errors import UserError
from transformer.interop.tokenizer_declared import GENERIC, JSON, NAMES, Declared

_SPACE = "\u2581"
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class Built:
    """A tokenizer as Transformers would load it from the folder."""

    tokenizer: Tokenizer
    specials: dict[str, str]
    """The tokens by role, `NAMES`, that it has."""
    source: str
    """The files of its vocabulary, in words."""


def build(declared: Declared) -> Built:
    """Returns a folder's tokenizer; raises UserError for a class or a file that cannot be read here."""
    folder, file = declared.folder, declared.file
    make = _CLASSES.get(declared.kind)
    if make is None and file is None:
        raise UserError(f"{folder}: tokenizer_class {declared.kind} is not supported without a {JSON}")
    try:
        started = (make or _generic)(declared)
        return _finish(declared, started)
    except UserError:
        raise
    except Exception as error:  # the library raises a bare Exception
        raise UserError(f"{folder}: no {declared.kind} can be made of its files ({error})") from None


@dataclasses.dataclass
class _Started:
    """A tokenizer before its tokens are added."""

    tokenizer: Tokenizer
    source: str
    defaults: dict[str, str | None]
    """Special tokens of its class, where no file names one."""
    template: Callable[[Tokenizer, dict[str, str]], Any] | None = None
    """The class's own template, of the finished tokenizer and its specials; None: the file's, or begin and end."""
    extra: list[str | AddedToken] | None = None
    """Further special tokens of its class."""
    adds_again: bool = False
    """Whether all special tokens are added once more, plainly, whatever files say of how they are found in a text."""


def _finish(declared: Declared, started: _Started) -> Built:
    """Adds the tokens, and the template."""
    tokenizer, options, file = started.tokenizer, declared.options, declared.file
    specials: dict[str, Any] = {**started.defaults, **declared.specials}
    roles = {name: token for name in NAMES if (token := specials.get(name)) is not None}
    everything = {**roles, **declared.named}
    present = list(tokenizer.get_added_tokens_decoder().values())
    known = {repr(token) for token in present}
    adding: list[Any] = [token for _, token in sorted(declared.added.items()) if repr(token) not in known]
    held = {token.content for token in present} | {str(token) for token in adding}
    further = declared.extra if declared.extra is not None else started.extra or []
    for token in (*everything.values(), *further):
        if _text(token) not in held:
            adding.append(token)
    named = {_text(token) for token in everything.values()}
    tokens = [AddedToken(token, special=True) if isinstance(token, str) else token for token in adding]
    for token in tokens:
        token.special = token.special or token.content in named
    if file is not None and started.template is None and declared.kind != GENERIC and file.get("post_processor"):
        tokenizer.post_processor = _post_processor(file)
    tokenizer.add_tokens(tokens)
    names = {name: _text(token) for name, token in roles.items()}
    if started.adds_again:
        again = dict.fromkeys(map(_text, (*everything.values(), *further)))
        tokenizer.add_tokens([AddedToken(name, special=True) for name in again])
    if started.template is not None:
        tokenizer.post_processor = started.template(tokenizer, names)
    elif tokenizer.post_processor is None or "add_bos_token" in options or "add_eos_token" in options:
        tokenizer.post_processor = _begin_and_end(tokenizer, names, options)
    return Built(tokenizer, names, started.source)


def _text(token: str | AddedToken) -> str:
    return token if isinstance(token, str) else token.content


def _post_processor(file: dict[str, Any]) -> Any:
    """The template of a tokenizer.json, read without its vocabulary."""
    blank = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    empty = {**file, "model": blank, "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "decoder": None}
    return Tokenizer.from_str(json.dumps(empty)).post_processor


def _begin_and_end(tokenizer: Tokenizer, names: dict[str, str], options: dict[str, Any]) -> Any:
    begin = names.get("bos_token") if options.get("add_bos_token") else None
    end = names.get("eos_token") if options.get("add_eos_token") else None
    parts = [begin, "$A", end]
    ids = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(filter(None, (begin, end)))]
    return processors.TemplateProcessing(single=[part for part in parts if part], pair=None, special_tokens=ids)


# What classes are made of: a file's vocabulary.


def _word_pieces(declared: Declared, unknown: str) -> tuple[models.Model, str]:
    if declared.file is not None:
        vocabulary = declared.file["model"]["vocab"]
        return models.WordPiece(_numbered(vocabulary), unk_token=unknown), JSON
    path = _needed(declared, "vocab.txt")
    return models.WordPiece(models.WordPiece.read_file(str(path)), unk_token=unknown), path.name


def _byte_pairs(declared: Declared, **options: Any) -> tuple[models.Model, str]:
    if declared.file is not None:
        model = declared.file["model"]
        pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model.get("merges", ())]
        return models.BPE(vocab=_numbered(model["vocab"]), merges=pairs, **options), JSON
    path, merges = _needed(declared, "vocab.json"), _needed(declared, "merges.txt")
    vocabulary, pairs = models.BPE.read_file(str(path), str(merges))
    return models.BPE(vocab=vocabulary, merges=pairs, **options), f"{path.name} and {merges.name}"


def _numbered(vocabulary: Any) -> dict[str, int]:
    """The ids of a vocabulary that a file has as an object, or as a list, with scores or without."""
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece[0] if isinstance(piece, list) else piece: i for i, piece in enumerate(vocabulary)}


def _needed(declared: Declared, *names: str) -> Path:
    """The first of these files that the folder has."""
    for name in names:
        if (declared.folder / name).exists():
            return declared.folder / name
    wanted = " or ".join((JSON, *names))
    raise UserError(f"{declared.folder}: a {declared.kind} needs {wanted}")


def _sentencepiece(declared: Declared, *names: str) -> tuple[Pieces, bytes, str]:
    path = _needed(declared, *names)
    content = path.read_bytes()
    try:
        return read_pieces(content), content, path.name
    except DecodeError:
        raise UserError(f"{path} is not a SentencePiece model") from None


def _symbols(pieces: Pieces) -> list[str | AddedToken]:
    return [AddedToken(piece, normalized=False, special=special) for piece, special in pieces.symbols]


def _merges(ids: dict[str, int]) -> list[tuple[str, str]]:
    """The merges that a SentencePiece model of byte pairs has by the order of its pieces."""
    ordered = sorted(ids, key=ids.__getitem__)
    return [
        (piece[:i], piece[i:])
        for piece in ordered
        for i in range(1, len(piece))
        if piece[:i] in ids and piece[i:] in ids
    ]


def _scored(declared: Declared, *names: str) -> tuple[list[tuple[str, float]], bytes, list[str | AddedToken] | None, str]:
    """A unigram model's pieces with their scores, its table of replacements, its symbols, and its file."""
    if declared.file is not None:
        vocabulary = [(piece, score) for piece, score in declared.file["model"]["vocab"]]
        return vocabulary, _charsmap(declared.file.get("normalizer") or {}), declared.options.get(_FURTHER), JSON
    pieces, _, source = _sentencepiece(declared, *names)
    return pieces.scored, pieces.charsmap, _symbols(pieces), source


_FURTHER = "additional_special_tokens"


def _charsmap(normalizer: dict[str, Any]) -> bytes:
    """The first table of replacements in the normaliser of a tokenizer.json."""
    parts = normalizer.get("normalizers", [normalizer]) if normalizer.get("type") == "Sequence" else [normalizer]
    found = next((part for part in parts if part.get("type") == "Precompiled"), {})
    return base64.b64decode(found.get("precompiled_charsmap") or "")


# The classes.


def _bert(declared: Declared) -> _Started:
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    defaults: dict[str, str | None] = {**names, "mask_token": "[MASK]"}
    options = declared.options
    unknown = {**defaults, **declared.specials}["unk_token"]
    model, source = _word_pieces(declared, str(unknown))
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return _Started(tokenizer, source, defaults, _cls_and_sep)


def _cls_and_sep(tokenizer: Tokenizer, names: dict[str, str]) -> Any:
    cls, sep = names["cls_token"], names["sep_token"]
    ids = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys((cls, sep))]
    pair = [f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"]
    return processors.TemplateProcessing(single=[f"{cls}:0", "$A:0", f"{sep}:0"], pair=pair, special_tokens=ids)


def _roberta(declared: Declared) -> _Started:
    spaced = declared.options.get("add_prefix_space", False)
    trim = declared.options.get("trim_offsets", True)
    tokenizer, source = _byte_level(declared, spaced)
    defaults: dict[str, str | None] = {
        "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
        "pad_token": "<pad>", "mask_token": "<mask>",
    }  # fmt: skip

    def template(made: Tokenizer, names: dict[str, str]) -> Any:
        sep, cls = ((names[name], made.token_to_id(names[name])) for name in ("sep_token", "cls_token"))
        return processors.RobertaProcessing(sep, cls, trim_offsets=trim, add_prefix_space=spaced)

    return _Started(tokenizer, source, defaults, template)


def _gpt2(declared: Declared) -> _Started:
    tokenizer, source = _byte_level(declared, declared.options.get("add_prefix_space", False))
    end = "<|endoftext|>"
    return _Started(tokenizer, source, {"unk_token": end, "bos_token": end, "eos_token": end})


def _byte_level(declared: Declared, spaced: bool) -> tuple[Tokenizer, str]:
    model, source = _byte_pairs(
        declared, dropout=None, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, source


def _gpt1(declared: Declared) -> _Started:
    unknown = declared.specials.get("unk_token", "<unk>")
    model, source = _byte_pairs(
        declared, dropout=None, continuing_subword_prefix="", end_of_word_suffix="</w>", fuse_unk=False,
        unk_token=str(unknown),
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return _Started(tokenizer, source, {"unk_token": "<unk>"})


def _qwen2(declared: Declared) -> _Started:
    model, source = _byte_pairs(
        declared, dropout=None, unk_token=None, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False,
        byte_fallback=False,
    )  # fmt: skip
    spaced = declared.options.get("add_prefix_space") or False
    tokenizer = Tokenizer(model)
    tokenizer.decoder, tokenizer.normalizer = decoders.ByteLevel(), normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False),
        ]
    )
    end = "<|endoftext|>"
    return _Started(tokenizer, source, {"unk_token": end, "eos_token": end, "pad_token": end}, adds_again=True)


def _llama(declared: Declared) -> _Started:
    options = {"fuse_unk": True, "byte_fallback": True, "dropout": None}
    extra = declared.options.get(_FURTHER)
    if declared.file is not None:
        model, source = _byte_pairs(declared, **options)
    else:
        pieces, _, source = _sentencepiece(declared, "tokenizer.model")
        ids = {piece: i for i, (piece, _) in enumerate(pieces.scored)}
        model, extra = models.BPE(vocab=ids, merges=_merges(ids), **options), _symbols(pieces)
    spaced = declared.options.get("add_prefix_space")
    spaced = True if spaced is None else spaced
    scheme = "never" if not spaced else "always" if declared.options.get("legacy", False) else "first"
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme, split=False)
    parts: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(content=" ", left=1)] if spaced else parts)
    return _Started(tokenizer, source, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}, extra=extra)


def _t5(declared: Declared) -> _Started:
    count = declared.options.get("extra_ids", 100)
    scored, charsmap, extra, source = _scored(declared, "tokenizer.model", "spiece.model")
    sentinels = [f"<extra_id_{i}>" for i in range(count)]
    if declared.file is None:
        scored = [*scored, *((sentinel, 0.0) for sentinel in reversed(sentinels))]
    given = [token for token in extra or () if "<extra_id_" in _text(token)]
    if given and count > 0 and len(given) != count:
        raise UserError(f"{declared.folder}: extra_ids is {count} and {len(given)} sentinels are declared")
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=2, byte_fallback=False))
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    spaces: dict[str, Any] = {"replacement": _SPACE, "prepend_scheme": "always", "split": True}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**spaces)]
    )
    tokenizer.decoder = decoders.Metaspace(**spaces)
    defaults: dict[str, str | None] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

    def template(made: Tokenizer, names: dict[str, str]) -> Any:
        end = made.token_to_id(names["eos_token"])
        pair = ["$A", "</s>", "$B", "</s>"]
        return processors.TemplateProcessing(single=["$A", "</s>"], pair=pair, special_tokens=[("</s>", end)])

    return _Started(tokenizer, source, defaults, template, extra if given else [*(extra or ()), *sentinels])


def _albert(declared: Declared) -> _Started:
    options = declared.options
    scored, charsmap, extra, source = _scored(declared, "tokenizer.model", "spiece.model")
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=1, byte_fallback=False))
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not options.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if options.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if options.get("add_prefix_space", True) else "never"
    spaces: dict[str, Any] = {"replacement": _SPACE, "prepend_scheme": scheme}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**spaces)]
    )
    tokenizer.decoder = decoders.Metaspace(**spaces)
    defaults: dict[str, str | None] = {
        "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "sep_token": "[SEP]", "pad_token": "<pad>",
        "cls_token": "[CLS]", "mask_token": "[MASK]",
    }  # fmt: skip
    names = {name: _text(token) for name, token in {**defaults, **declared.specials}.items() if token is not None}
    ids = [(piece, tokenizer.token_to_id(names[name])) for piece, name in (("[CLS]", "cls_token"), ("[SEP]", "sep_token"))]
    single, pair = ["[CLS]:0", "$A:0", "[SEP]:0"], ["[CLS]:0", "$A:0", "[SEP]:0", "$B:1", "[SEP]:1"]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return _Started(tokenizer, source, defaults, extra=extra)


def _generic(declared: Declared) -> _Started:
    if declared.file is not None:
        content = (declared.folder / JSON).read_text(encoding="utf-8")
        return _Started(Tokenizer.from_str(content), JSON, {}, extra=declared.options.get(_FURTHER))
    pieces, content, source = _sentencepiece(declared, "tokenizer.model")
    spec = read_spec(content)
    unknown_id, unknown = pieces.unknown
    if spec.is_unigram:
        if declared.added:
            raise UserError(f"{declared.folder}: Transformers reads no {declared.added_from} beside a unigram {source}")
        model: models.Model = models.Unigram(pieces.scored, unk_id=unknown_id, byte_fallback=spec.byte_fallback)
    else:
        ids = {piece: i for i, (piece, _) in enumerate(pieces.scored)}
        merges = _merges(ids)
        model = models.BPE(
            vocab=_renamed(ids, declared), merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=spec.byte_fallback,
            dropout=None,
        )  # fmt: skip
    tokenizer = Tokenizer(model)
    replaced: list[Any] = [normalizers.Precompiled(pieces.charsmap)] if pieces.charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*replaced, normalizers.Replace(" ", _SPACE)])
    parts: list[Any] = [decoders.Replace(_SPACE, " ")]
    tokenizer.decoder = decoders.Sequence(
        [*parts, decoders.ByteFallback(), decoders.Fuse()] if spec.byte_fallback else parts
    )
    defaults = {"bos_token": pieces.begin, "eos_token": pieces.end, "unk_token": unknown or None}
    return _Started(tokenizer, source, defaults, extra=_symbols(pieces))


def _renamed(ids: dict[str, int], declared: Declared) -> dict[str, int]:
    """The vocabulary with the pieces that a file declares otherwise under their declared names."""
    pieces = {i: piece for piece, i in ids.items()}
    for i, token in declared.added.items():
        if pieces.get(i) not in (None, token.content) and token.content not in ids:
            ids[token.content] = ids.pop(pieces[i])
            pieces[i] = token.content
    return ids


_CLASSES: dict[str, Callable[[Declared], _Started]] = {
    "AlbertTokenizer": _albert,
    "BertTokenizer": _bert,
    "GPT2Tokenizer": _gpt2,
    "LlamaTokenizer": _llama,
    "OpenAIGPTTokenizer": _gpt1,
    "Qwen2Tokenizer": _qwen2,
    "RobertaTokenizer": _roberta,
    "T5Tokenizer": _t5,
    GENERIC: _generic,
}
