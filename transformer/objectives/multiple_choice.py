"""Tell which of several choices fits a text best: a score each, of which the right one's should be the highest
(Radford et al. 2018, section 3.3; Zellers et al. 2018).

Shape letters: B batch, C choices, T length.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.examples.choices import ChoicesReading, ChoicesRecords
from transformer.data.examples.dataset import ExamplesDataset
from transformer.data.records import Record
from transformer.objectives.examples import UnlabelledObjective, text_inputs
from transformer.objectives.objective import ModelInputs

_NEVER = -1e30
"""The score of a choice that is not there: as good as minus infinity, and without its derivative."""


@dataclasses.dataclass(frozen=True)
class MultipleChoice(UnlabelledObjective):
    """Cross entropy over the choices of an example, each of which is a row of the model."""

    name: ClassVar[str] = "multiple_choice"
    reads: ClassVar[str] = "choices"

    choices: int = 4
    """C: choices of an example, at most."""

    def __post_init__(self) -> None:
        checks.at_least(self, 2, "choices")

    @property
    def head(self) -> str:
        return "multiple_choice"

    @property
    def rows(self) -> int:
        return self.choices

    def reading(self, seq_len: int) -> ChoicesReading:
        return ChoicesReading(seq_len, choices=self.choices)

    def example(self, record: Record, rng: np.random.Generator, setting: bool) -> dict[str, Any]:
        """Returns a row a choice, [C, T], and the number of the right one, int32.

        Args:
          record: as `ChoicesRecords` has them.
          rng: not used.
          setting: whether the model reads token types.
        """
        del rng
        return {"inputs": text_inputs(record, setting), "targets": record["label"], "weights": record["there"]}

    def cut(self, batch: dict[str, Any], width: int) -> dict[str, Any]:
        return batch | {"inputs": {name: values[:, :, :width] for name, values in batch["inputs"].items()}}

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns the sums over examples."""
        scores_BC, targets_B, weights_B = _scores(outputs, batch), batch["targets"], batch["weights"]
        logs_B = jnp.take_along_axis(jax.nn.log_softmax(scores_BC), targets_B[:, None], axis=-1)[:, 0]
        loss_sum = -(logs_B * weights_B).sum()
        right_B = (scores_BC.argmax(axis=-1) == targets_B).astype(jnp.float32)
        return loss_sum, weights_B.sum(), {"nll": loss_sum, "accuracy": (right_B * weights_B).sum()}

    def predictions(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `scores` [B, C] and `targets`."""
        return {"scores": _scores(outputs, batch), "targets": batch["targets"]}

    def score(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> dict[str, float]:
        del dataset, model
        return {"accuracy": float((predictions["scores"].argmax(axis=1) == predictions["targets"]).mean())}

    def answers(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> Iterator[dict[str, Any]]:
        """Yields the fields of each row, the number of the choice that was `told`, and the choices' probabilities."""
        from scipy.special import softmax  # takes a fifth of a second to import

        del model
        assert isinstance(dataset, ExamplesDataset)
        assert isinstance(dataset.validation, ChoicesRecords)
        for number, scores_C in enumerate(predictions["scores"].astype(np.float64)):
            scores = softmax(scores_C[: len(dataset.validation.choices[number].seconds)])
            yield {**dataset.held_out[number].values, "told": int(scores.argmax()), "scores": scores.tolist()}


def _scores(outputs: Any, batch: Mapping[str, Any]) -> jax.Array:
    """Returns float32 [B, C]: the score of each choice, and of one that is not there as good as none."""
    there_BC = (batch["inputs"]["segment_ids"] > 0).any(axis=-1)
    return jnp.where(there_BC, outputs.logits.astype(jnp.float32).reshape(there_BC.shape), _NEVER)
