"""Building a folder's tokenizer, as Transformers' AutoTokenizer loads it."""

import dataclasses
import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from transformer.errors import UserError
from transformer.interop.tokenizer_classes import CLASSES, Started, generic
from transformer.interop.tokenizer_declared import FURTHER, GENERIC, JSON, NAMES, Declared, content_of


@dataclasses.dataclass(frozen=True)
class BuiltTokenizer:
    """A tokenizer as Transformers would load it from the folder."""

    tokenizer: Tokenizer
    specials: dict[str, str]
    """Its special tokens by role (`NAMES`)."""
    source: str
    """The files of its vocabulary, in words."""


def build(declared: Declared) -> BuiltTokenizer:
    """Returns a folder's tokenizer; raises UserError for a class or a file that cannot be read here."""
    folder, file = declared.folder, declared.file
    make = CLASSES.get(declared.kind)
    if make is None and file is None:
        raise UserError(f"{folder}: tokenizer_class {declared.kind} is not supported without a {JSON}")
    try:
        started = (make or generic)(declared)
        return _finish(declared, started)
    except UserError:
        raise
    except Exception as error:  # the library raises a bare Exception
        raise UserError(f"{folder}: no {declared.kind} can be made of its files ({error})") from None


def _finish(declared: Declared, started: Started) -> BuiltTokenizer:
    """Returns the tokenizer with its added tokens and its template."""
    tokenizer, options, file = started.tokenizer, declared.options, declared.file
    specials: dict[str, Any] = {**started.defaults, **declared.specials}
    roles = {name: token for name in NAMES if (token := specials.get(name)) is not None}
    everything = {**roles, **declared.named}
    present = list(tokenizer.get_added_tokens_decoder().values())
    known = {repr(token) for token in present}
    adding: list[Any] = [token for _, token in sorted(declared.added.items()) if repr(token) not in known]
    held = {token.content for token in present} | {str(token) for token in adding}
    further = next((more for more in (declared.extra, started.extra, options.get(FURTHER)) if more is not None), [])
    for token in (*everything.values(), *further):
        if content_of(token) not in held:
            adding.append(token)
    named = {content_of(token) for token in everything.values()}
    tokens = [AddedToken(token, special=True) if isinstance(token, str) else token for token in adding]
    for token in tokens:
        token.special = token.special or token.content in named
    if file is not None and started.template is None and declared.kind != GENERIC and file.get("post_processor"):
        tokenizer.post_processor = _post_processor(file)
    tokenizer.add_tokens(tokens)
    names = {name: content_of(token) for name, token in roles.items()}
    if started.adds_again:
        contents = dict.fromkeys(map(content_of, (*everything.values(), *further)))
        tokenizer.add_tokens([AddedToken(name, special=True) for name in contents])
    if started.template is not None:
        tokenizer.post_processor = started.template(tokenizer, names)
    elif tokenizer.post_processor is None or "add_bos_token" in options or "add_eos_token" in options:
        tokenizer.post_processor = _begin_and_end(tokenizer, names, options)
    return BuiltTokenizer(tokenizer, names, started.source)


def _post_processor(file: dict[str, Any]) -> Any:
    """Returns the template of a tokenizer.json, read without its vocabulary."""
    blank = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    empty = {**file, "model": blank, "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "decoder": None}
    return Tokenizer.from_str(json.dumps(empty)).post_processor


def _begin_and_end(tokenizer: Tokenizer, names: dict[str, str], options: dict[str, Any]) -> Any:
    begin = names.get("bos_token") if options.get("add_bos_token") else None
    end = names.get("eos_token") if options.get("add_eos_token") else None
    parts = [begin, "$A", end]
    ids = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(filter(None, (begin, end)))]
    return processors.TemplateProcessing(single=[part for part in parts if part], pair=None, special_tokens=ids)
