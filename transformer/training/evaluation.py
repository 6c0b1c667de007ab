"""Loss on the validation text, per token and per byte."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax

from transformer.training.state import Batch


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    loss: float
    """Nats a target token: the plain negative log likelihood, whatever the objective adds to it in training."""
    targets: float
    """Target tokens that it was averaged over."""
    bits_per_byte: float | None
    """Bits for a byte of the text; comparable between tokenizers, and with a compressor. None where the objective does
    not score the whole text."""
    metrics: dict[str, float]
    """The objective's other metrics, a target token each."""

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def row(self) -> dict[str, float]:
        """The evaluation as a row of metrics."""
        row = {"eval_loss": self.loss, "eval_perplexity": self.perplexity}
        if self.bits_per_byte is not None:
            row["eval_bits_per_byte"] = self.bits_per_byte
        return row | {f"eval_{name}": value for name, value in self.metrics.items()}


def evaluate(
    step: Callable[[Any, Batch], dict[str, jax.Array]],
    params: Any,
    batches: Iterable[Batch],
    *,
    targets_per_byte: float | None,
) -> Evaluation:
    """Adds up the sums of all batches on the device, and divides once.

    Args:
      step: (params, batch) -> sums over the batch: `weight`, `nll` and the objective's other metrics.
      params: the weights.
      batches: on the devices.
      targets_per_byte: target tokens of the whole validation text over its bytes in UTF-8; None where the objective
        does not score all of it.
    """
    total = None
    for batch in batches:
        sums = step(params, batch)
        total = sums if total is None else jax.tree.map(lambda a, b: a + b, total, sums)
    if total is None:
        raise ValueError("no batch to evaluate")
    values = {name: float(value) for name, value in jax.device_get(total).items()}
    weight = values.pop("weight")
    means = {name: value / max(weight, 1.0) for name, value in values.items()}
    loss = means.pop("nll")
    return Evaluation(
        loss=loss,
        targets=weight,
        bits_per_byte=None if targets_per_byte is None else loss * targets_per_byte / math.log(2),
        metrics=means,
    )
