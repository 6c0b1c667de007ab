"""Loss on the validation records; of text also per byte."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from transformer.layers.routing import router_metrics
from transformer.training.program import Evaluated, Sums
from transformer.training.state import Batch


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    loss: float
    """The mean over the targets, without what the objective adds to it in training; of tokens, nats of the plain
    negative log likelihood."""
    targets: float
    """Targets that it was averaged over, by weight."""
    metrics: dict[str, float]
    """The objective's other metrics, means too."""
    perplexity: float | None = None
    """exp(loss), infinite where that overflows; None where the targets are no tokens."""
    predictions: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """Name -> [N, ...]: what the objective scored of each validation record; empty where sums say all."""
    bits_per_byte: float | None = None
    """Bits for a byte of the text; comparable between tokenizers, and with a compressor. None where the objective does
    not score the whole text."""

    def row(self) -> dict[str, float]:
        """Returns the evaluation as a row of metrics."""
        row = {"loss": self.loss, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte, **self.metrics}
        return {f"eval_{name}": value for name, value in row.items() if value is not None}

    def of_tokens(self, targets_per_byte: float | None) -> "Evaluation":
        """Returns the evaluation of an objective that scores tokens, with what follows from its loss.

        Args:
          targets_per_byte: target tokens of the whole validation text over its bytes in UTF-8; None where the objective
            does not score all of it.
        """
        return dataclasses.replace(
            self,
            perplexity=math.exp(self.loss) if self.loss < 700 else math.inf,
            bits_per_byte=None if targets_per_byte is None else self.loss * targets_per_byte / math.log(2),
        )


def evaluate(
    step: Callable[[Any, Batch], Evaluated], params: Any, batches: Iterable[Batch]
) -> tuple[Evaluation, dict[str, np.ndarray]]:
    """Adds up the sums of all batches on the device, and divides once; and collects what is scored of each example.

    One batch is dispatched before the sums of the one before are there, as in training, and no more: several processes
    of several CPU devices each hang within seconds where many programs with collectives are queued, and a deadline
    could not tell a batch that is stuck from one that waits.

    Args:
      step: (params, batch) -> sums over the batch, the metric `nll` among them, and predictions.
      params: the weights.
      batches: on the devices.

    Returns:
      The evaluation, and name -> the predictions of all examples, padding behind the last one too.
    """
    total: Sums | None = None
    before: dict[str, jax.Array] = {}
    collected: list[dict[str, np.ndarray]] = []
    for batch in batches:
        sums, predictions = step(params, batch)
        jax.block_until_ready(total)
        total = sums if total is None else jax.tree.map(lambda a, b: a + b, total, sums)
        if before:
            collected.append(jax.device_get(before))
        before = predictions
    if before:
        collected.append(jax.device_get(before))
    if total is None:
        raise ValueError("no batch to evaluate")
    total = Sums(*jax.device_get(total))
    weight = float(total.weight)
    means = {name: float(value) / max(weight, 1.0) for name, value in total.metrics.items()}
    if total.routers:
        means |= {name: float(value) for name, value in router_metrics(total.routers).items()}
    names = collected[0] if collected else ()
    predictions = {name: _joined([each[name] for each in collected]) for name in names}
    return Evaluation(loss=means.pop("nll"), targets=weight, metrics=means), predictions


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Returns predictions [B, ...] of batches one behind another; narrower ones are filled up with zeros."""
    widest = np.max([part.shape[1:] for part in parts], axis=0).astype(int)
    widths = [[(0, 0), *((0, most - own) for most, own in zip(widest, part.shape[1:], strict=True))] for part in parts]
    return np.concatenate([np.pad(part, width) for part, width in zip(parts, widths, strict=True)])
