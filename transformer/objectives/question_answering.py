"""Find the part of a context that answers a question, or that none does (Devlin et al. 2019, sections 4.2 and 4.3).

Shape letters: B batch, T length, W windows.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.examples.dataset import ExamplesDataset
from transformer.data.examples.questions import QuestionsReading, QuestionsRecords
from transformer.data.records import Record
from transformer.metrics import answers
from transformer.metrics.spans import Answer, Window, best_answers
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

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "answer_tokens")

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
        rights_N2, _ = self._judged(predictions, dataset)
        return len(rights_N2), lambda chosen: dict(zip(_METRICS, rights_N2[chosen].mean(axis=0).tolist(), strict=True))

    def table(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> str | None:
        """Returns the metrics of questions with and without an answer; None where there are no two kinds."""
        del model
        rights_N2, has_answer_N = self._judged(predictions, dataset)
        if has_answer_N.all() or not has_answer_N.any():
            return None
        lines = [f"{'questions':20}{'count':>8}{'exact match':>13}{'f1':>8}"]
        for name, those in (("with an answer", has_answer_N), ("without", ~has_answer_N)):
            exact, f1 = rights_N2[those].mean(axis=0)
            lines.append(f"{name:20}{those.sum():8,}{exact:13.4f}{f1:8.4f}")
        return "\n".join(lines)

    def answers(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> Iterator[dict[str, Any]]:
        """Yields the fields of each row, with the answer that was `told`, empty where there is none, and its score."""
        del model
        assert isinstance(dataset, ExamplesDataset)
        for number, answer in enumerate(self._answers(predictions, dataset)):
            yield {**dataset.held_out[number].values, "told": answer.text, "score": answer.score}

    def _judged(self, predictions: Mapping[str, np.ndarray], dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Returns [N, 2], exact match and F1 of each question, and bool [N], whether it has an answer."""
        assert isinstance(dataset.validation, QuestionsRecords)
        told = self._answers(predictions, dataset)
        right = [[text for text, _ in each.answers] for each in dataset.validation.questions[: len(told)]]
        rows = [
            (answers.exact_match(each.text, own), answers.f1(each.text, own))
            for each, own in zip(told, right, strict=True)
        ]
        return np.array(rows).reshape(-1, 2), np.array([bool(own) for own in right])

    def _answers(self, predictions: Mapping[str, np.ndarray], dataset: Dataset) -> list[Answer]:
        """Returns the answer to each question whose windows were all read."""
        records = dataset.validation
        assert isinstance(records, QuestionsRecords)
        logits_WT2, told = predictions["logits"], []
        may_be_none = any(not each.answers for each in records.questions)
        for question, first, end in zip(records.questions, records.windows, records.windows[1:], strict=False):
            if end > len(logits_WT2):
                break
            windows = [_window(records, number, logits_WT2[number]) for number in range(first, end)]
            [answer] = best_answers(
                question.context, windows, most_tokens=self.answer_tokens, may_be_none=may_be_none
            ) or [Answer(0.0, 0, 0, "")]
            told.append(answer)
        return told


_METRICS = ("exact_match", "f1")


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
