"""Whether a tokenizer is another one with more pieces, so that weights that know the other's ids can go on with it."""

from transformer.errors import UserError
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.tokenizers.vocabulary import Vocabulary


def check_extended(new: Tokenizer, old: Tokenizer, where: str) -> None:
    """Raises `UserError` unless every piece and every special of `old` has the same id in `new`.

    Padding is free: it weighs nothing, and GPT-2's vocabulary has none until one is added.

    Args:
      where: the new one's file, for the error message.
    """
    if new.fingerprint == old.fingerprint:
        return
    if new.vocab_size < old.vocab_size:
        raise UserError(f"{where} has {new.vocab_size} pieces, and the weights know {old.vocab_size}")
    for i, (given, known) in enumerate(zip(new.pieces(), old.pieces(), strict=False)):
        if given != known:
            raise UserError(f"{where} gives id {i} to {_named(given)}, and the weights know it as {_named(known)}")
    for role, given, known in zip(_ROLES, _specials(new), _specials(old), strict=True):
        if given[: len(known)] != known:
            raise UserError(f"{where} has the id {_ids(given)} for {role}, and the weights know {_ids(known)}")


_ROLES = ("the beginning", "the end", "[MASK]", "[CLS]", "[SEP]", "the sentinels", "[NLU], [S2S] and [NLG]")


def _specials(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Returns the ids of each role, none where the tokenizer has none for it."""
    vocabulary = Vocabulary.of(tokenizer)
    single = (vocabulary.bos, vocabulary.eos, vocabulary.mask_id, vocabulary.cls_id, vocabulary.sep_id)
    return [*(() if i is None else (i,) for i in single), vocabulary.sentinels, vocabulary.paradigms]


def _named(piece: str | None) -> str:
    return "a special or to none" if piece is None else repr(piece)


def _ids(ids: tuple[int, ...]) -> str:
    return ", ".join(map(str, ids)) or "none"
