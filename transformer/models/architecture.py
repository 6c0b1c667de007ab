"""What every family's config is: a frozen dataclass of plain values, a skeleton that knows no weights."""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.errors import UserError
from transformer.layers.execution import Execution


@dataclasses.dataclass(frozen=True)
class Architecture(abc.ABC):
    """A family's config. A subclass has plain fields, checks itself in `__post_init__`, and names its family."""

    family: ClassVar[str]
    """The name under which `transformer.models.FAMILIES` and a checkpoint's architecture.json know it."""

    vocab_size: int
    """Kinds of tokens: the tokenizer has at most so many."""

    @abc.abstractmethod
    def build(self, execution: Execution) -> nn.Module:
        """Returns the module: the model without its weights."""

    @abc.abstractmethod
    def flops_per_token(self, seq_len: int) -> float:
        """Returns the FLOPs of training on one token: forward and backward, in sequences of `seq_len`."""

    def example_inputs(self, batch: int = 1, length: int = 1) -> dict[str, Any]:
        """Returns inputs of the model, all zeros: what its `init` needs."""
        tokens = jnp.zeros((batch, length), jnp.int32)
        return {"tokens": tokens, "positions": tokens, "segment_ids": tokens}

    def abstract_params(self) -> Any:
        """Returns the tree of shapes, dtypes and logical axis names of the parameters; allocates nothing."""
        module = self.build(Execution())
        return jax.eval_shape(lambda: module.init(jax.random.key(0), **self.example_inputs()))["params"]

    def num_params(self) -> int:
        """Returns the number of parameters, tied ones counted once."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.meta.unbox(self.abstract_params())))

    def require(self, condition: bool, message: str) -> None:
        """Raises `UserError` with the message, unless the condition holds."""
        if not condition:
            raise UserError(f"{self.family} model: {message}")

    def require_positive(self, *fields: str) -> None:
        """Raises `UserError` where a field is below 1."""
        for field in fields:
            value = getattr(self, field)
            self.require(value >= 1, f"{field} is {value}: it must be at least 1")
