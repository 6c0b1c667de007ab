"""Zero-shot classification of texts: a model of entailment tells whether a text entails that it is about a label.

Yin et al. 2019, "Benchmarking zero-shot text classification", section 5. Rules as Hugging Face Transformers' pipeline
has them (`ZeroShotClassificationPipeline`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.tasks.reader import scores_of_row
from transformer.tasks.task import Options, RowTask, needs_head, text_of
from transformer.tasks.text_classification import softmax
from transformer.tokenizers.framing import Length, Row, Text


@dataclasses.dataclass(frozen=True)
class EntailmentOptions(Options):
    """What a text may be about."""

    candidate_labels: tuple[str, ...] = ()
    """The labels; a string of them has commas between."""
    hypothesis_template: str = "This example is {}."
    """The second text, with {} in the place of the label."""
    multi_label: bool = False
    """Whether several labels may fit, so that each is told by itself; otherwise the scores add up to 1."""

    def __post_init__(self) -> None:
        given = self.candidate_labels
        labels = [label.strip() for label in given.split(",")] if isinstance(given, str) else given
        object.__setattr__(self, "candidate_labels", tuple(label for label in labels if label))
        if not self.candidate_labels:
            raise UserError('zero-shot-classification needs candidate_labels, such as ["sports", "politics"]')
        if self.hypothesis_template.format(self.candidate_labels[0]) == self.hypothesis_template:
            raise UserError(f"hypothesis_template {self.hypothesis_template!r} has no {{}}, which stands for the label")


class ZeroShotClassification(RowTask):
    """A model of entailment that tells which labels fit a text."""

    name, options, read = "zero-shot-classification", EntailmentOptions, scores_of_row

    def __init__(self, restored: Restored):
        needs_head(restored, self.name, "sequence_classification")
        names = restored.architecture.class_names
        entailing = [number for number, name in enumerate(names) if name.lower().startswith("entail")]
        if not entailing or len(names) < 2:
            raise UserError(
                f"{restored.checkpoint} tells {', '.join(names[:5])}: zero-shot-classification needs a model of "
                "entailment, with a class whose name begins with entail"
            )
        self._entails = entailing[0]
        super().__init__(restored)

    def gathered(self, inputs: tuple[Any, ...], told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The labels may come second."""
        if len(inputs) == 2 and "candidate_labels" not in told:
            inputs, told = inputs[:1], {**told, "candidate_labels": inputs[1]}
        return super().gathered(inputs, told)

    def texts(self, given: Any, options: EntailmentOptions) -> list[Text]:
        text = text_of(given)
        return [(text, options.hypothesis_template.format(label)) for label in options.candidate_labels]

    def length(self, options: EntailmentOptions) -> tuple[Length | None, bool]:
        """A text that is too long is cut, and the hypothesis is not."""
        context = self.restored.architecture.longest_input
        return None if context is None else Length(context, "only_first"), False

    def answer(
        self,
        given: str,
        rows: Sequence[Sequence[Row]],
        scores: Sequence[Sequence[np.ndarray]],
        options: EntailmentOptions,
    ) -> dict[str, Any]:
        logits = np.stack([each for [each] in scores])
        if options.multi_label or len(scores) == 1:
            contradicts = -1 if self._entails == 0 else 0
            probabilities = softmax(logits[:, [contradicts, self._entails]])[:, 1]
        else:
            probabilities = softmax(logits[:, self._entails])
        order = probabilities.argsort()[::-1]
        return {
            "sequence": given,
            "labels": [options.candidate_labels[number] for number in order],
            "scores": probabilities[order].tolist(),
        }
