"""GPT, the first: a decoder of post-norm blocks with learned positions, and no norm after the last block.

Radford et al. 2018, "Improving language understanding by generative pre-training", sections 3.1 and 4.1.

Shape letters: B batch, T length, D model width, V vocabulary, N layers.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax

from transformer import checks
from transformer.layers.blocks import BlockSizes, PostNormBlock
from transformer.layers.cache import LayerCache
from transformer.layers.execution import Execution, LayerOutput, Stack
from transformer.layers.primitives import Dropout, Embedding
from transformer.models.decoder import DecoderConfig
from transformer.ops.attention import Mask
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class GPT1Config(DecoderConfig):
    """A GPT model; the defaults are those of the paper (116,534,784 parameters).

    The feed-forward layers are four times as wide as the model.
    """

    family: ClassVar[str] = "gpt1"
    last_norm: ClassVar[str] = "backbone/stack/layers/mlp_norm"

    vocab_size: int = 40478
    """Words."""
    context_length: int = 512
    """Learned positions: the most tokens that the model can look at."""
    dropout: float = 0.1
    """Probability of dropping embeddings, attention probabilities and sublayer outputs."""

    def __post_init__(self):
        super().__post_init__()
        checks.divides(self, "num_heads", "width")
        checks.within(self, "[0, 1)", "dropout")

    def backbone(self, execution: Execution) -> "GPT1Backbone":
        """Returns the model below its head."""
        return GPT1Backbone(self, execution)


class GPT1Backbone(nn.Module):
    """Embeddings and blocks: tokens in, hidden states out. All matrices start at 0.02 (section 4.1)."""

    config: GPT1Config
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        self.token_embedding = Embedding(config.vocab_size, config.width, ("vocab", "embed"), dtype)
        self.position_embedding = Embedding(config.context_length, config.width, ("positions", "embed"), dtype)
        self.dropout = Dropout(config.dropout)
        sizes = BlockSizes(
            config.width,
            config.num_heads,
            4 * config.width,
            config.activation,
            config.norm_epsilon,
            dropout=config.dropout,
            attention_dropout=config.dropout,
        )
        self.stack = Stack(functools.partial(PostNormBlock, sizes, self.execution), config.num_layers, self.execution)

    def __call__(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, cache: LayerCache | None, *masks: Mask, deterministic: bool
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and, with a cache, all layers' new keys and values."""
        x_BTD = self.token_embedding(tokens_BT) + self.position_embedding(positions_BT)
        x_BTD = constrain(self.dropout(x_BTD, deterministic=deterministic), *RESIDUAL)
        return self.stack(x_BTD, cache, *masks, deterministic=deterministic)
