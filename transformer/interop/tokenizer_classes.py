"""Transformers 5's classes of tokenizers that the models here use, and how each makes its parts.

A class makes its normaliser, pre-tokeniser and decoder from its options; from a tokenizer.json it takes only the
vocabulary and the template. `TokenizersBackend` takes the whole file.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from transformer.errors import UserError
from transformer.interop.tokenizer_declared import GENERIC, JSON, Declared, content_of
from transformer.interop.tokenizer_vocabulary import byte_pairs, merges, scored, sentencepiece, symbols, word_pieces
from transformer.tokenizers.sentencepiece_model import read_spec

_SPACE = "\u2581"
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass
class Started:
    """A tokenizer before its tokens are added."""

    tokenizer: Tokenizer
    source: str
    defaults: dict[str, str | None]
    """The class's special tokens, where no file names one."""
    template: Callable[[Tokenizer, dict[str, str]], Any] | None = None
    """Makes the class's template from the finished tokenizer and its specials; None: the file's, or begin and end."""
    extra: list[str | AddedToken] | None = None
    """Further special tokens that the class makes; None: those that the files declare."""
    adds_again: bool = False
    """Whether all special tokens are added once more, plainly, whatever the files say about matching them in a text."""


def _bert(declared: Declared) -> Started:
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    defaults: dict[str, str | None] = {**names, "mask_token": "[MASK]"}
    options = declared.options
    unknown = {**defaults, **declared.specials}["unk_token"]
    model, source = word_pieces(declared, str(unknown))
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return Started(tokenizer, source, defaults, _cls_and_sep)


def _cls_and_sep(tokenizer: Tokenizer, names: dict[str, str]) -> Any:
    cls, sep = names["cls_token"], names["sep_token"]
    ids = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys((cls, sep))]
    pair = [f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"]
    return processors.TemplateProcessing(single=[f"{cls}:0", "$A:0", f"{sep}:0"], pair=pair, special_tokens=ids)


def _roberta(declared: Declared) -> Started:
    spaced = declared.options.get("add_prefix_space", False)
    trim = declared.options.get("trim_offsets", True)
    tokenizer, source = _byte_level(declared, spaced)
    defaults: dict[str, str | None] = {
        "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
        "pad_token": "<pad>", "mask_token": "<mask>",
    }  # fmt: skip

    def template(made: Tokenizer, names: dict[str, str]) -> Any:
        ids: Any = [(names[name], made.token_to_id(names[name])) for name in ("sep_token", "cls_token")]
        return processors.RobertaProcessing(*ids, trim_offsets=trim, add_prefix_space=spaced)

    return Started(tokenizer, source, defaults, template)


def _gpt2(declared: Declared) -> Started:
    tokenizer, source = _byte_level(declared, declared.options.get("add_prefix_space", False))
    end = "<|endoftext|>"
    return Started(tokenizer, source, {"unk_token": end, "bos_token": end, "eos_token": end})


def _byte_level(declared: Declared, spaced: bool) -> tuple[Tokenizer, str]:
    model, source = byte_pairs(
        declared, dropout=None, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, source


def _gpt1(declared: Declared) -> Started:
    unknown = declared.specials.get("unk_token", "<unk>")
    model, source = byte_pairs(
        declared, dropout=None, continuing_subword_prefix="", end_of_word_suffix="</w>", fuse_unk=False,
        unk_token=str(unknown),
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return Started(tokenizer, source, {"unk_token": "<unk>"})


def _qwen2(declared: Declared) -> Started:
    model, source = byte_pairs(
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
    return Started(tokenizer, source, {"unk_token": end, "eos_token": end, "pad_token": end}, adds_again=True)


def _llama(declared: Declared) -> Started:
    options = {"fuse_unk": True, "byte_fallback": True, "dropout": None}
    extra = None
    if declared.file is not None:
        model, source = byte_pairs(declared, **options)
    else:
        pieces, _, source = sentencepiece(declared, "tokenizer.model")
        ids = {piece: i for i, (piece, _) in enumerate(pieces.scored)}
        model, extra = models.BPE(vocab=ids, merges=merges(ids), **options), symbols(pieces)
    spaced = declared.options.get("add_prefix_space")
    spaced = True if spaced is None else spaced
    scheme = "never" if not spaced else "always" if declared.options.get("legacy", False) else "first"
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme, split=False)
    parts: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(content=" ", left=1)] if spaced else parts)
    return Started(tokenizer, source, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}, extra=extra)


def _t5(declared: Declared) -> Started:
    count = declared.options.get("extra_ids", 100)
    pieces, charsmap, extra, source = scored(declared, "tokenizer.model", "spiece.model")
    sentinels = [f"<extra_id_{i}>" for i in range(count)]
    if declared.file is None:
        pieces = [*pieces, *((sentinel, 0.0) for sentinel in reversed(sentinels))]
    given = [token for token in extra or () if "<extra_id_" in content_of(token)]
    if given and count > 0 and len(given) != count:
        raise UserError(f"{declared.folder}: extra_ids is {count} and {len(given)} sentinels are declared")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
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

    return Started(tokenizer, source, defaults, template, extra if given else [*(extra or ()), *sentinels])


def _albert(declared: Declared) -> Started:
    options = declared.options
    pieces, charsmap, extra, source = scored(declared, "tokenizer.model", "spiece.model")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1, byte_fallback=False))
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
    names = {name: content_of(token) for name, token in {**defaults, **declared.specials}.items() if token is not None}
    ids = [
        (piece, tokenizer.token_to_id(names[name])) for piece, name in (("[CLS]", "cls_token"), ("[SEP]", "sep_token"))
    ]
    single, pair = ["[CLS]:0", "$A:0", "[SEP]:0"], ["[CLS]:0", "$A:0", "[SEP]:0", "$B:1", "[SEP]:1"]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return Started(tokenizer, source, defaults, extra=extra)


def generic(declared: Declared) -> Started:
    if declared.file is not None:
        content = (declared.folder / JSON).read_text(encoding="utf-8")
        return Started(Tokenizer.from_str(content), JSON, {})
    pieces, content, source = sentencepiece(declared, "tokenizer.model")
    spec = read_spec(content)
    unknown_id, unknown = pieces.unknown
    if spec.is_unigram:
        if declared.added:
            raise UserError(f"{declared.folder}: Transformers reads no {declared.added_from} beside a unigram {source}")
        model: models.Model = models.Unigram(pieces.scored, unk_id=unknown_id, byte_fallback=spec.byte_fallback)
    else:
        ids = {piece: i for i, (piece, _) in enumerate(pieces.scored)}
        pairs = merges(ids)
        model = models.BPE(
            vocab=_renamed(ids, declared), merges=pairs, unk_token=unknown, fuse_unk=True,
            byte_fallback=spec.byte_fallback, dropout=None,
        )  # fmt: skip
    tokenizer = Tokenizer(model)
    replaced: list[Any] = [normalizers.Precompiled(pieces.charsmap)] if pieces.charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*replaced, normalizers.Replace(" ", _SPACE)])
    parts: list[Any] = [decoders.Replace(_SPACE, " ")]
    tokenizer.decoder = decoders.Sequence(
        [*parts, decoders.ByteFallback(), decoders.Fuse()] if spec.byte_fallback else parts
    )
    defaults = {"bos_token": pieces.begin, "eos_token": pieces.end, "unk_token": unknown or None}
    return Started(tokenizer, source, defaults, extra=symbols(pieces))


def _renamed(ids: dict[str, int], declared: Declared) -> dict[str, int]:
    """Returns the vocabulary, with pieces that a file renames under their declared names."""
    pieces = {i: piece for piece, i in ids.items()}
    for i, token in declared.added.items():
        if pieces.get(i) not in (None, token.content) and token.content not in ids:
            ids[token.content] = ids.pop(pieces[i])
            pieces[i] = token.content
    return ids


CLASSES: dict[str, Callable[[Declared], Started]] = {
    "AlbertTokenizer": _albert,
    "BertTokenizer": _bert,
    "GPT2Tokenizer": _gpt2,
    "LlamaTokenizer": _llama,
    "OpenAIGPTTokenizer": _gpt1,
    "Qwen2Tokenizer": _qwen2,
    "RobertaTokenizer": _roberta,
    "T5Tokenizer": _t5,
    GENERIC: generic,
}
