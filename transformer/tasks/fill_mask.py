"""Filling masks: the words that stand in the place of [MASK]."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

from transformer.errors import UserError
from transformer.inference.fill_mask import MaskFiller
from transformer.inference.restored import Restored
from transformer.tasks.task import Options, Task, text_of
from transformer.tokenizers.framing import spelled


@dataclasses.dataclass(frozen=True)
class MaskOptions(Options):
    """What may stand in a mask's place."""

    top_k: int = 5
    """Guesses a mask."""
    targets: tuple[str, ...] | None = None
    """Words among which is chosen; their probabilities are still those over the whole vocabulary."""

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", (self.targets,))


class FillMask(Task):
    """A model of masked words.

    An answer is a list of dicts, the likeliest first, with "score", "token", "token_str" and "sequence"; of several
    masks, a list of such a list a mask.
    """

    name, options = "fill-mask", MaskOptions

    def __init__(self, restored: Restored):
        super().__init__(restored)
        self._filler = MaskFiller(restored)

    @functools.cached_property
    def _ids(self) -> dict[str | None, int]:
        """How each token is spelled in the tokenizer's files -> the token."""
        tokenizer = self.restored.tokenizer
        return {tokenizer.name_of(token): token for token in range(tokenizer.vocab_size)}

    def answers(self, inputs: Sequence[Any], options: MaskOptions, batch_size: int, first: int) -> list[Any]:
        for number, given in enumerate(inputs, start=first):
            try:
                self._filler.encode(text_of(given))
            except UserError as error:
                raise UserError(f"input {number}: {error}") from None
        targets = None if options.targets is None else self._targets(options.targets)
        top_k = options.top_k if targets is None else min(options.top_k, len(targets))
        told = self._filler(inputs, top_k=top_k, batch_size=batch_size, among=targets)
        return [self._answer(text, masks) for text, masks in zip(inputs, told, strict=True)]

    def _answer(self, text: str, masks: list[Any]) -> Any:
        tokens, places = self._filler.encode(text)
        tokenizer, answers = self.restored.tokenizer, []
        for place, guesses in zip(places, masks, strict=True):
            answers.append([])
            for guess in guesses:
                filled = [*tokens[:place], guess.token, *tokens[place + 1 :]]
                filled = [
                    token for token in filled if token != tokenizer.pad_id or tokenizer.pad_id == tokenizer.eos_id
                ]
                whole = tokenizer.decode(filled) if len(masks) == 1 else spelled(tokenizer, filled)
                answers[-1].append(
                    {
                        "score": guess.probability,
                        "token": guess.token,
                        "token_str": spelled(tokenizer, [guess.token]),
                        "sequence": whole,
                    }
                )
        return answers[0] if len(answers) == 1 else answers

    def _targets(self, targets: Sequence[str]) -> list[int]:
        """Returns the ids of words; of one that is no token its first piece, with a warning."""
        ids = []
        for target in targets:
            token = self._ids.get(target)
            if token is None:
                pieces = self.restored.tokenizer.encode(target)
                if not pieces:
                    raise UserError(f"targets: {target!r} has no token in this model's vocabulary")
                token, name = pieces[0], self.restored.tokenizer.name_of(pieces[0])
                logging.getLogger(__name__).warning("targets: %r is no token here: %r stands for it", target, name)
            ids.append(token)
        return sorted(set(ids))

    def listed(self, answers: list[Any]) -> Any:
        return answers[0] if len(answers) == 1 else answers
