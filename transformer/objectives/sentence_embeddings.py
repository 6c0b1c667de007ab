"""Make vectors of texts, so that those of texts that belong together are close (Reimers and Gurevych 2019).

A text's vector is the mean of its tokens' hidden states, of length 1. The texts of a group stand side by side in a row,
each a segment of its own that sees no other; so any encoder reads them as it is.

Shape letters: B batch, K texts of a group, T length of a text, D model width, N texts that a first one meets.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.examples.groups import GroupsReading
from transformer.data.records import Record
from transformer.metrics import classification
from transformer.metrics.retrieval import recall
from transformer.objectives.examples import ExamplesObjective
from transformer.objectives.objective import ModelInputs
from transformer.parallel.rules import constrain

_NEVER = -1e30
"""The score of what is not there: as good as minus infinity, and without its derivative."""


@dataclasses.dataclass(frozen=True)
class SentenceEmbeddings(ExamplesObjective):
    """The likelihood of each text's own partner among all of the batch's; or how far cosines are from scores."""

    name: ClassVar[str] = "sentence_embeddings"
    reads: ClassVar[str] = "groups of texts"
    sums_over_examples: ClassVar[bool] = False

    pairs: Literal["pairs", "triples", "scored"] = "pairs"
    """What a group is: two texts that belong together; these and a third that does not belong to the first; or two and
    a number, the higher the more they are alike (the loss: squared error of the cosine)."""
    scale: float = 20.0
    """What cosines are multiplied with, as scores of which partner is the right one (Henderson et al. 2017's loss, with
    the scale of sentence-transformers)."""
    highest_score: float = 5.0
    """The number of two texts that say the same (STS benchmark: 5); 0 is of texts that have nothing in common."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "scale", "highest_score")

    @property
    def head(self) -> str:
        return "none"

    def reading(self, seq_len: int) -> GroupsReading:
        return GroupsReading(seq_len, scored=self.pairs == "scored", negatives=self.pairs == "triples")

    def input_length(self, seq_len: int) -> int:
        return seq_len * self.reading(seq_len).size

    def text_length(self, seq_len: int) -> int:
        return seq_len

    def setting(self, dataset: Dataset, seq_len: int, model: ModelInputs) -> None:
        del seq_len, model
        self.checked(dataset)

    def example(self, record: Record, rng: np.random.Generator, setting: None) -> dict[str, Any]:
        """Returns the texts of a group in a row [K T], and its score as the cosine that they should have, float32.

        Args:
          record: as `GroupsRecords` has them.
          rng: not used.
          setting: None.
        """
        del rng, setting
        size, length = record["tokens"].shape
        numbers = np.arange(1, size + 1, dtype=np.int32)[:, None]
        inputs = {
            "tokens": record["tokens"].reshape(-1),
            "positions": np.tile(np.arange(length, dtype=np.int32), size),
            "segment_ids": (record["segment_ids"] * numbers).reshape(-1),
        }
        target = np.asarray(record["score"] / self.highest_score, np.float32)
        return {"inputs": inputs, "targets": target, "weights": record["there"]}

    def cut(self, batch: dict[str, Any], width: int) -> dict[str, Any]:
        size = self.reading(1).size

        def narrow(values: np.ndarray) -> np.ndarray:
            return values.reshape(len(values), size, -1)[:, :, :width].reshape(len(values), -1)

        return batch | {"inputs": {name: narrow(values) for name, values in batch["inputs"].items()}}

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns sums over groups. `accuracy`: first texts to which no other's partner is closer than their own."""
        vectors_BKD, weights_B = self._vectors(outputs, batch), batch["weights"].astype(jnp.float32)
        first_BD, second_BD = vectors_BKD[:, 0], vectors_BKD[:, 1]
        own_B = (first_BD * second_BD).sum(axis=-1)
        if self.pairs == "scored":
            loss_sum = (jnp.square(own_B - batch["targets"]) * weights_B).sum()
            return loss_sum, weights_B.sum(), {"nll": loss_sum}
        others_ND = constrain(jnp.swapaxes(vectors_BKD[:, 1:], 0, 1).reshape(-1, first_BD.shape[-1]), None, None)
        there_N = constrain(jnp.tile(weights_B, vectors_BKD.shape[1] - 1), None) > 0
        scores_BN = self.scale * jnp.einsum("BD,ND->BN", first_BD, others_ND)
        scores_BN = constrain(jnp.where(there_N[None], scores_BN, _NEVER), "activation_batch", None)
        loss_sum = ((jax.nn.logsumexp(scores_BN, axis=1) - self.scale * own_B) * weights_B).sum()
        right_B = (self.scale * own_B >= scores_BN.max(axis=1) - 1e-4).astype(jnp.float32)
        return loss_sum, weights_B.sum(), {"nll": loss_sum, "accuracy": (right_B * weights_B).sum()}

    def predictions(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the `vectors` [B, K, D] and the `targets`."""
        return {"vectors": self._vectors(outputs, batch), "targets": batch["targets"]}

    def score(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> dict[str, float]:
        """Returns how well cosines and scores agree, or how often partners are found among those of all examples."""
        del dataset, model
        first_ND, second_ND = predictions["vectors"][:, 0], predictions["vectors"][:, 1]
        if self.pairs == "scored":
            return classification.numbers((first_ND * second_ND).sum(axis=-1), predictions["targets"])
        scores_NN = first_ND @ second_ND.T
        return {f"recall@{k}": recall(scores_NN, np.arange(len(scores_NN)), k) for k in (1, 5)}

    def _vectors(self, outputs: Any, batch: Mapping[str, Any]) -> jax.Array:
        """Returns float32 [B, K, D], of length 1."""
        size = self.reading(1).size
        numbers_K11 = jnp.arange(1, size + 1, dtype=jnp.int32)[:, None, None]
        segments_KBT = (batch["inputs"]["segment_ids"][None] == numbers_K11).astype(jnp.float32)
        shares_KBT = segments_KBT / jnp.maximum(segments_KBT.sum(axis=-1, keepdims=True), 1.0)
        vectors_BKD = jnp.einsum("KBT,BTD->BKD", shares_KBT, outputs.hidden_BTD.astype(jnp.float32))
        return vectors_BKD / jnp.maximum(jnp.linalg.norm(vectors_BKD, axis=-1, keepdims=True), 1e-12)
