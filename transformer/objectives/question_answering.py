"""Find the part of a context that answers a question, or that none does (Devlin et al. 2019, sections 4.2 and 4.3).

Shape letters: B batch, T length, W windows.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.examples.dataset import ExamplesDataset
from transformer.data.examples.questions import QuestionsReading, QuestionsRecords
from transformer.data.records import Record
from transformer.metrics import answers
from transformer.metrics.spans import Answer, Window, scored
from transformer.objectives.examples import UnlabelledObjective, text_inputs
from transformer.objectives.objective import ModelInputs

_NEVER = -1e30
"""The score of padding: as good as minus infinity, and without its derivative."""


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(UnlabelledObjective):
    """The mean of two cross entropies over a window's tokens: of where the answer starts, and of where it ends.

    A window without the answer has it at its first token. Padding can be neither, so that a loss does not depend on
    what shares a batch.
    """

    name: ClassVar[str] = "question_answering"
    reads: ClassVar[str] = "questions"
    other_kinds: ClassVar[tuple[str, ...]] = ("decoder",)

    answer_tokens: int = 30
    """Tokens of an answer that an evaluation tells, at most."""
    null_threshold: float = 0.0
    """No answer is told where the logarithm of its score is above that of the best span's by more than this."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "answer_tokens")
        checks.rule(self, "null_threshold", math.isfinite(self.null_threshold), "give a number")

    @property
    def head(self) -> str:
        return "question_answering"

    def reading(self, seq_len: int) -> QuestionsReading:
        return QuestionsReading(seq_len)

    def example(self, record: Record, rng: np.random.Generator, setting: bool) -> dict[str, Any]:
        """Returns a window, and the first and last token of the answer: `start` and `end`, int32.

        Args:
          record: as `QuestionsRecords` has them.
          rng: not used.
          setting: whether the model reads token types.
        """
        del rng
        start, end = record["span"]
        targets = {"start": np.asarray(start), "end": np.asarray(end)}
        return {"inputs": text_inputs(record, setting), "targets": targets, "weights": record["there"]}

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns the sums over windows."""
        logs_BT2, weights_B = jax.nn.log_softmax(_scores(outputs, batch), axis=1), batch["weights"]
        places_B2 = jnp.stack([batch["targets"]["start"], batch["targets"]["end"]], axis=-1)
        logs_B2 = jnp.take_along_axis(logs_BT2, places_B2[:, None], axis=1)[:, 0]
        loss_sum = -(logs_B2.mean(axis=-1) * weights_B).sum()
        return loss_sum, weights_B.sum(), {"nll": loss_sum}

    def predictions(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `logits`, [B, T, 2]: of each token as a start, and as an end."""
        return {"logits": _scores(outputs, batch)}

    def score(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> dict[str, float]:
        count, of = self.resampling(predictions, dataset, model)
        return of(np.arange(count))

    def resampling(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> tuple[int, Callable[[np.ndarray], dict[str, float]]]:
        """Returns how many questions were answered, and how well some of them were."""
        del model
        rights_N2, _ = self._judged(self._told(predictions, dataset), dataset)
        return len(rights_N2), lambda chosen: dict(zip(_METRICS, rights_N2[chosen].mean(axis=0).tolist(), strict=True))

    def table(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> str | None:
        """Returns the metrics of questions with and without an answer, and what any other `null_threshold` could make
        of them; None where there are no two kinds.
        """
        del model
        told = self._told(predictions, dataset)
        rights_N2, has_answer_N = self._judged(told, dataset)
        if has_answer_N.all() or not has_answer_N.any():
            return None
        lines = [f"{'questions':20}{'count':>8}{'exact match':>13}{'f1':>8}"]
        for name, those in (("with an answer", has_answer_N), ("without", ~has_answer_N)):
            exact, f1 = rights_N2[those].mean(axis=0)
            lines.append(f"{name:20}{those.sum():8,}{exact:13.4f}{f1:8.4f}")
        f1_N = [answers.f1(each.span.text, own) for each, own in zip(told, _right(dataset, len(told)), strict=True)]
        margins_N = np.array([each.margin for each in told])
        best, threshold = answers.best_threshold(margins_N, np.array(f1_N), ~has_answer_N)
        lines.append(f"with --objective.null-threshold {threshold:.2f}, f1 of all would be {best:.4f}, its highest")
        return "\n".join(lines)

    def answers(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> Iterator[dict[str, Any]]:
        """Yields the fields of each row, with the answer that was `told`, empty where there is none, its score, and
        the `null_margin` that `null_threshold` is held against, where there may be none.
        """
        del model
        assert isinstance(dataset, ExamplesDataset)
        for number, told in enumerate(self._told(predictions, dataset)):
            answer = told.answer(self.null_threshold)
            margin = {"null_margin": told.margin} if told.null is not None else {}
            yield {**dataset.held_out[number].values, "told": answer.text, "score": answer.score, **margin}

    def _judged(self, told: list["_Told"], dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Returns [N, 2], exact match and F1 of each question, and bool [N], whether it has an answer."""
        texts, right = [each.answer(self.null_threshold).text for each in told], _right(dataset, len(told))
        rows = [(answers.exact_match(text, own), answers.f1(text, own)) for text, own in zip(texts, right, strict=True)]
        return np.array(rows).reshape(-1, 2), np.array([bool(own) for own in right])

    def _told(self, predictions: Mapping[str, np.ndarray], dataset: Dataset) -> list["_Told"]:
        """Returns what is told of each question whose windows were all read."""
        records = dataset.validation
        assert isinstance(records, QuestionsRecords)
        logits_WT2, told = predictions["logits"], []
        may_be_none = any(not each.answers for each in records.questions)
        for question, first, end in zip(records.questions, records.windows, records.windows[1:], strict=False):
            if end > len(logits_WT2):
                break
            windows = [_window(records, number, logits_WT2[number]) for number in range(first, end)]
            spans, null = scored(question.context, windows, most_tokens=self.answer_tokens)
            best = max(spans, key=lambda each: each.score, default=Answer(0.0, 0, 0, ""))
            told.append(_Told(best, null if may_be_none else None))
        return told


class _Told(NamedTuple):
    """What is told of a question."""

    span: Answer
    """The best part of the context."""
    null: float | None
    """The score of no answer; None where every question has one."""

    @property
    def margin(self) -> float:
        """By how much the logarithm of the score of no answer is above the span's."""
        least = np.finfo(np.float32).tiny
        return -math.inf if self.null is None else math.log(max(self.null, least) / max(self.span.score, least))

    def answer(self, null_threshold: float) -> Answer:
        """Returns the span, or no answer."""
        if self.null is None or self.margin <= null_threshold:
            return self.span
        return Answer(self.null, 0, 0, "")


_METRICS = ("exact_match", "f1")


def _right(dataset: Dataset, count: int) -> list[list[str]]:
    """Returns the right answers to the first questions; none where the context does not say."""
    assert isinstance(dataset.validation, QuestionsRecords)
    return [[text for text, _ in each.answers] for each in dataset.validation.questions[:count]]


def _window(records: QuestionsRecords, number: int, logits_T2: np.ndarray) -> Window:
    answerable_T = records.in_context[number] > 0
    answerable_T[0] = True
    return Window(logits_T2[: len(answerable_T)], answerable_T, records.starts[number], records.ends[number])


def _scores(outputs: Any, batch: Mapping[str, Any]) -> jax.Array:
    """Returns float32 [B, T, 2]: the scores of starts and ends, in the order of the text, and of padding as good as
    none."""
    there_BT, order = batch["inputs"]["segment_ids"] > 0, batch["inputs"].get("order")
    logits_BT2 = jnp.where(there_BT[..., None], outputs.logits.astype(jnp.float32), _NEVER)
    return logits_BT2 if order is None else logits_BT2[:, jnp.argsort(order[0])]
