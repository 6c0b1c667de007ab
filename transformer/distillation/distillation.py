"""Distillation: a student's losses beside its teacher, of one batch.

Shape letters: B batch, T length, P masked positions, D model width, N the student's layers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer.distillation.config import TeacherConfig
from transformer.distillation.losses import attention_loss, cosine_loss, hidden_loss, real_tokens, spread
from transformer.distillation.teacher import WORDS, check
from transformer.layers.execution import Execution
from transformer.models import Architecture
from transformer.objectives.objective import Objective
from transformer.ops.attention import Mask
from transformer.ops.divergence import divergence, divergence_of_scores
from transformer.ops.word_loss import Words
from transformer.parallel.rules import RESIDUAL, constrain

Losses = tuple[jax.Array, jax.Array, dict[str, jax.Array]]
"""What `Objective.loss` returns: the sum of losses, the weight, and sums of metrics."""


class Distillation:
    """The losses of a student that learns from its objective and from a teacher.

    Args:
      config: what it learns from the teacher.
      teacher: the teacher's architecture.
      student: the student's.
      objective: the student's.
      execution: how both are computed.

    Raises:
      UserError: this student cannot learn that from this teacher.
    """

    def __init__(
        self,
        config: TeacherConfig,
        teacher: Architecture,
        student: Architecture,
        objective: Objective,
        execution: Execution,
    ):
        check(config, teacher, student, objective)
        self._config, self._objective, self._tells_words = config, objective, student.head in WORDS
        self._teacher = teacher.build(dataclasses.replace(execution, remat="none"))  # it has no backward pass
        self._is_causal = student.kind == "decoder"
        shown = {"states": config.cosine, "intermediates": config.hidden, "attended": config.attention}
        self._shown = [collection for collection, weight in shown.items() if weight]
        if config.compares_layers:
            deep, own = teacher.stacks["stack"], student.stacks["stack"]
            self._layers = np.asarray(config.layers or [(layer + 1) * deep // own - 1 for layer in range(own)])

    def __call__(self, apply: Callable[..., Any], teacher_params: Any, batch: Mapping[str, Any]) -> tuple[Any, Losses]:
        """Returns the student's outputs and its losses, to which `teacher_kl`, `teacher_cosine`, ... are added.

        Args:
          apply: the student, called with inputs and `mutable`, as `nn.Module.apply` is.
          teacher_params: the teacher's weights.
          batch: as `Objective.loss` reads it.
        """
        config, inputs = self._config, dict(batch["inputs"])
        everywhere = config.everywhere and config.kl > 0
        masked_BP = inputs.pop("masked_positions", None) if everywhere else None
        outputs, seen = apply(**inputs, mutable=self._shown)
        answer: Any = self._teacher.apply({"params": teacher_params}, **inputs, deterministic=True, mutable=self._shown)
        theirs, theirs_seen = jax.lax.stop_gradient(answer)
        of_targets = outputs if masked_BP is None else _at(outputs, masked_BP)
        loss_sum, weight, metrics = self._objective.loss(of_targets, batch)

        weights = batch["weights"]
        terms: dict[str, Any] = {}
        if config.kl:
            at_words = weights if masked_BP is None else spread(weights, real_tokens(inputs, inputs["tokens"].shape))
            terms["kl"] = self._divergence(outputs, theirs, at_words)
        if config.cosine:
            last_BTD, theirs_BTD = seen["states"]["last"], theirs_seen["states"]["last"]
            weights_BT = spread(weights, real_tokens(inputs, last_BTD.shape[:2]))
            terms["cosine"] = cosine_loss(last_BTD, theirs_BTD, weights_BT)
        if config.hidden:
            own_NBTD, theirs_NBTD = (_of_layers(each, "intermediates")["hidden"] for each in (seen, theirs_seen))
            weights_BT = spread(weights, real_tokens(inputs, own_NBTD.shape[1:3]))
            terms["hidden"] = hidden_loss(own_NBTD, theirs_NBTD[self._layers], weights_BT)
        if config.attention:
            own, other = (_of_layers(each, "attended")["attention"] for each in (seen, theirs_seen))
            other = {name: array[self._layers] for name, array in other.items()}
            weights_BT = spread(weights, real_tokens(inputs, own["queries"].shape[1:3]))
            mask = Mask.self_attention(
                inputs.get("segment_ids"), causal=self._is_causal, prefix_BT=inputs.get("prefix")
            )
            terms["attention"] = attention_loss(own, other, mask, weights_BT)

        loss_sum = config.objective * loss_sum
        for name, term in terms.items():
            loss_sum += getattr(config, name) * term
        return outputs, (loss_sum, weight, metrics | {f"teacher_{name}": term for name, term in terms.items()})

    def _divergence(self, outputs: Any, theirs: Any, weights: jax.Array) -> jax.Array:
        """Returns the weighted sum of divergences, at words or classes."""
        if self._tells_words:
            own, teacher = (Words(each.hidden_BTD, each.unembedding_VD, each.bias_V) for each in (outputs, theirs))
            chunk = getattr(self._objective, "chunk", None)
            return divergence(own, teacher, weights, temperature=self._config.temperature, chunk=chunk)
        each = divergence_of_scores(outputs.logits, theirs.logits, temperature=self._config.temperature)
        return (each * weights).sum()


def _at(outputs: Any, masked_BP: jax.Array) -> Any:
    """Returns the outputs at the masked places of outputs at every token, as `MaskedLMHead` does."""
    hidden_BPD = jnp.take_along_axis(outputs.hidden_BTD, masked_BP[:, :, None], axis=1)
    return outputs.replace(hidden_BTD=constrain(hidden_BPD, *RESIDUAL, padded=True))


def _of_layers(seen: Mapping[str, Any], collection: str) -> Mapping[str, Any]:
    """Returns what the layers of a stack showed, stacked."""
    return seen[collection]["backbone"]["stack"]["layers"]
