"""Predict the next token (Bengio et al. 2003; GPT's pretraining objective)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer.errors import UserError
from transformer.ops.cross_entropy import cross_entropy


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """Causal language modelling over packed windows."""

    z_loss: float = 0.0
    """Weight of log(Z)^2, which keeps the logits from drifting (PaLM, section 5)."""
    label_smoothing: float = 0.0
    """Probability mass spread evenly over the vocabulary (Szegedy et al. 2016)."""
    chunk: int | None = None
    """Positions of the sequences whose logits exist at a time, which saves memory; None: all."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--objective.label-smoothing is {self.label_smoothing}: it must lie in [0, 1)")
        if self.chunk is not None and self.chunk < 1:
            raise UserError(f"--objective.chunk is {self.chunk}: it must be at least 1 position")

    def example(self, record: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
        """Returns a window's inputs and the token after each.

        Args:
          record: `tokens`, `segment_ids` and `positions`, int32 [T + 1]; segment 0 is padding.
          rng: not used: every token is a target.
        """
        del rng
        segments = record["segment_ids"]
        inputs = {name: record[name][:-1] for name in ("tokens", "positions", "segment_ids")}
        # A document's first token is not predicted from the document before.
        weights = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
        return {"inputs": inputs, "targets": record["tokens"][1:], "weights": weights.astype(np.float32)}

    def loss(self, outputs: Any, batch: Mapping[str, Any]):
        """Returns (loss_sum, weight, metrics), float32 sums over the batch's targets, in nats.

        The metrics are `nll`, the loss without z-loss and smoothing, and `accuracy`.
        """
        loss_sum, weight, metrics = cross_entropy(
            outputs.hidden_BTD,
            outputs.unembedding_VD,
            batch["targets"],
            batch["weights"],
            bias=outputs.bias_V,
            chunk=self.chunk,
            z_loss=self.z_loss,
            label_smoothing=self.label_smoothing,
        )
        return loss_sum, weight, {"nll": metrics["nll"], "accuracy": metrics["correct"]}
