"""Tell which text belongs to which image: Radford et al. 2021 (CLIP), and Zhai et al. 2023 (SigLIP).

Every image of the global batch meets every text of it, on whichever devices they are. Two rows with equal texts are
held apart like any others, as the papers do: noise that grows with the share of equal texts in a batch.

Shape letters: B batch, C chunk of it, P width of the vectors.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.images.dataset import CaptionDataset
from transformer.data.images.records import ImageReading
from transformer.data.records import Record
from transformer.errors import UserError
from transformer.objectives.objective import ModelInputs, Objective
from transformer.parallel.rules import constrain

_NEVER = -1e30
"""The score of what is not there: as good as minus infinity, and without its derivative."""
_EQUAL = 1e-4
"""By how much scores of equal texts may differ, by rounding."""


class _Row(NamedTuple):
    """Sums over the texts that an image meets, or the images that a text meets; float32 [B]."""

    log_sum: jax.Array
    """log(sum(exp(score)))."""
    softplus: jax.Array
    """sum(log(1 + exp(score)))."""
    own: jax.Array
    """The score of what belongs to it."""
    best: jax.Array
    """The largest score."""


@dataclasses.dataclass(frozen=True)
class Contrastive(Objective):
    """The negative log likelihood of each image's own text, and of each text's own image, among all of the batch."""

    name: ClassVar[str] = "contrastive"
    kind: ClassVar[str] = "two_towers"
    sums_over_examples: ClassVar[bool] = False

    loss_of: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: the right one of a batch, images and texts in turn (CLIP); sigmoid: each pair, whether it is one
    (SigLIP)."""
    chunk: int | None = None
    """How many texts (then images) all rows meet at a time, which saves memory: B * chunk scores exist; None: all."""

    def __post_init__(self) -> None:
        checks.choice(self, "loss_of", ("softmax", "sigmoid"))
        checks.at_least(self, 1, "chunk")

    @property
    def head(self) -> str:
        return "contrastive"

    def reading(self, seq_len: int) -> ImageReading:
        return ImageReading(captions=True, length=seq_len)

    def input_length(self, seq_len: int) -> int:
        return seq_len

    def setting(self, dataset: Dataset, seq_len: int, model: ModelInputs) -> None:
        """Raises UserError where the data are no captions, or end in another token or place than the model reads."""
        if not isinstance(dataset, CaptionDataset):
            raise UserError(f"the objective {self.name} reads captions, and --data has none: choose another preset")
        if getattr(model, "reads_padding", False) and seq_len != (context := getattr(model, "context_length")):  # noqa: B009
            raise UserError(
                f"--train.seq-len {seq_len}: the model reads a text at its last place, padding or not, which is the "
                f"same wherever it is used: give the {context} of --model.context-length"
            )
        if not hasattr(model, "end_id"):
            return
        _, after = dataset.tokenizer.template()
        end = after[-1] if after else dataset.tokenizer.eos_id
        read = getattr(model, "end_id")  # noqa: B009 - of its models alone
        if read is None:
            read = dataset.vocabulary.size - 1  # the highest id
        if read != end:
            raise UserError(f"--model.end-id: the model reads a text at token {read}, and captions end in {end}")

    def example(self, record: Record, rng: np.random.Generator, setting: Any) -> dict[str, Any]:
        """Returns an image and its text; what belongs to it is the row's own, so there is no other target."""
        del rng, setting
        inputs = {"images": record["image"], "tokens": record["tokens"], "segment_ids": record["segment_ids"]}
        return {"inputs": inputs, "targets": np.int32(0), "weights": record["there"]}

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns sums over pairs. `accuracy`: images whose own text fits best, or one that is equal to it."""
        weights_B = batch["weights"].astype(jnp.float32)
        images = self._rows(outputs, outputs.images_BP, outputs.texts_NP, weights_B)
        if self.loss_of == "sigmoid":
            loss_B = images.softplus - images.own
        else:
            texts = self._rows(outputs, outputs.texts_NP, outputs.images_BP, weights_B)
            loss_B = (images.log_sum - images.own + texts.log_sum - texts.own) / 2
        loss_sum = (loss_B * weights_B).sum()
        right_B = (images.own >= images.best - _EQUAL).astype(jnp.float32)
        return loss_sum, weights_B.sum(), {"nll": loss_sum, "accuracy": (right_B * weights_B).sum()}

    def _rows(self, outputs: Any, x_BP: jax.Array, others_BP: jax.Array, weights_B: jax.Array) -> _Row:
        """Returns the sums over all `others_BP`, a chunk at a time; those of weight 0 are not there.

        The rows stay split over devices as the batch is; the others are whole on each, of which scores exist for a
        chunk alone, forward and backward.
        """
        batch, width = others_BP.shape
        chunk = batch if self.chunk is None else min(self.chunk, batch)
        count = -(-batch // chunk)
        x_BP = constrain(x_BP, "activation_batch", None)
        others_BP, weights_B = constrain(others_BP, None, None), constrain(weights_B, None)
        missing = count * chunk - batch
        chunks = (
            jnp.pad(others_BP, ((0, missing), (0, 0))).reshape(count, chunk, width),
            jnp.pad(weights_B, (0, missing)).reshape(count, chunk),
            jnp.arange(count * chunk, dtype=jnp.int32).reshape(count, chunk),
        )
        rows_B1 = jnp.arange(batch, dtype=jnp.int32)[:, None]

        @jax.checkpoint
        def add(sums: _Row, chunk: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[_Row, None]:
            others_CP, weights_C, numbers_C = chunk
            scores_BC = outputs.similarities(x_BP, others_CP)
            there_1C = (weights_C > 0)[None]
            seen_BC = jnp.where(there_1C, scores_BC, _NEVER)
            own_B = jnp.where(rows_B1 == numbers_C[None], scores_BC, 0.0).sum(axis=1)
            return _Row(
                jnp.logaddexp(sums.log_sum, jax.nn.logsumexp(seen_BC, axis=1)),
                sums.softplus + jnp.where(there_1C, jax.nn.softplus(scores_BC), 0.0).sum(axis=1),
                sums.own + own_B,
                jnp.maximum(sums.best, jax.lax.stop_gradient(seen_BC).max(axis=1)),
            ), None

        zeros_B = jnp.zeros(batch)
        sums, _ = jax.lax.scan(add, _Row(zeros_B + _NEVER, zeros_B, zeros_B, zeros_B + _NEVER), chunks)
        return sums
