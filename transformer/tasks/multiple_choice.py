"""Multiple choice: which of several endings, or answers, fits a text best. Transformers has the models, no pipeline."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.tasks.reader import scores_of_row
from transformer.tasks.task import Options, RowTask, fields_of, needs_head, text_of
from transformer.tasks.text_classification import softmax, truncated
from transformer.tokenizers.framing import Length, Row, Text


@dataclasses.dataclass(frozen=True)
class ChoiceOptions(Options):
    """How choices are told."""

    top_k: int | None = None
    """Choices that are told, the likeliest first; None: all."""
    truncation: bool = False
    """Whether a pair that is too long is cut from its longer text; otherwise it is refused."""


class MultipleChoice(RowTask):
    """A model that scores each choice behind the text.

    An input is a dict with "prompt" and "choices"; an answer is a list of dicts, the likeliest choice first, with its
    "label" (the choice), its "index" among the choices and its "score", a softmax over the choices.
    """

    name, options, read = "multiple-choice", ChoiceOptions, scores_of_row

    def __init__(self, restored: Restored):
        needs_head(restored, self.name, "multiple_choice")
        super().__init__(restored)

    def texts(self, given: Any, options: ChoiceOptions) -> list[Text]:
        prompt, choices = fields_of(given, "prompt", "choices")
        if not isinstance(choices, list | tuple) or len(choices) < 2:
            raise UserError("choices are to be a list of two texts or more")
        return [(text_of(prompt, "the prompt"), text_of(choice, "a choice")) for choice in choices]

    def length(self, options: ChoiceOptions) -> tuple[Length | None, bool]:
        return truncated(self.restored, options.truncation, None), False

    def answer(
        self, given: Any, rows: Sequence[Sequence[Row]], scores: Sequence[Sequence[np.ndarray]], options: ChoiceOptions
    ) -> list[dict[str, Any]]:
        probabilities = softmax(np.concatenate([each for [each] in scores]))
        order = np.argsort(-probabilities, kind="stable")[: options.top_k]
        return [
            {"label": given["choices"][number], "index": number, "score": float(probabilities[number])}
            for number in map(int, order)
        ]
