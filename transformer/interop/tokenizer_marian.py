"""Settings in the side files of a Marian folder, beside its SentencePiece models and its vocabulary."""

import json
from typing import Any

from transformer.errors import UserError
from transformer.interop.tokenizer_declared import TOKENIZER, Declared, content_of

_ROLES = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def marian_settings(declared: Declared) -> dict[str, Any]:
    """Returns the settings of a `MarianTokenizer`; empty where they are as usual.

    Raises:
      UserError: two vocabularies, sampling, or a token that takes the spaces beside it.
    """
    options, place = declared.options, declared.folder / TOKENIZER
    for name in ("separate_vocabs", "sp_model_kwargs"):
        if options.get(name):
            raise UserError(f"{place}: {name} {json.dumps(options[name])} is not supported")
    for token in declared.added.values():
        if token.lstrip or token.rstrip or token.single_word:
            raise UserError(
                f"{declared.folder / declared.added_from}: {token.content!r}: lstrip, rstrip or single_word"
            )
    named = {role: content_of(token) for role, token in declared.specials.items() if token is not None}
    roles = {role: named[role] for role in _ROLES if role in named}
    try:
        ids = json.loads((declared.folder / "vocab.json").read_bytes())
    except (OSError, ValueError):
        return {}  # the tokenizer reports what is wrong with it
    others = [token for role, token in named.items() if role not in _ROLES]
    specials = [*({**_ROLES, **roles}.values()), *others, *declared.named.values(), *(declared.extra or ())]
    added = {token.content: number for number, token in sorted(declared.added.items())}
    free = len({**ids, **added})
    for token in dict.fromkeys(content_of(token) for token in specials):
        if token not in added:
            added[token] = ids.get(token, free)
            free += token not in ids
    special = {content_of(token) for token in specials}
    special |= {token.content for token in declared.added.values() if token.special}
    changed = {role: token for role, token in roles.items() if token != _ROLES[role]}
    usual = set(_ROLES.values())
    if not changed and set(added) == usual and all(added[token] == ids.get(token) for token in usual):
        return {}
    return {**changed, "added": added, "specials": sorted(special)}
