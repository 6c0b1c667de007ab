"""OLMoE: LLaMA's blocks with experts, and RMSNorms over all queries and all keys of a token together.

Muennighoff et al. 2024, "OLMoE: open mixture-of-experts language models", section 2 and appendix B.

Shape letters: B batch, T length, H heads of queries, keys or values, K head width.
"""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.attention import Attention
from transformer.layers.execution import Execution
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.primitives import RMSNorm
from transformer.models.llama import LlamaBackbone, LlamaBlock, LlamaConfig
from transformer.models.pre_norm import PreNormBlock

OLMOE_EXPERTS = ExpertsConfig(
    num_experts=64, experts_per_token=8, mlp_width=1024, normalize=False, balance_loss=0.01, z_loss=0.001
)
"""The experts of OLMoE-1B-7B."""


@dataclasses.dataclass(frozen=True)
class OlmoeConfig(LlamaConfig):
    """A model of OLMoE's kind; the defaults are OLMoE-1B-7B's (6,919,161,856 parameters)."""

    family: ClassVar[str] = "olmoe"

    vocab_size: int = 50304
    """Words."""
    context_length: int = 4096
    """The most tokens that the model is made for; no parameter depends on it."""
    width: int = 2048
    """Model width: of the residual stream."""
    num_layers: int = 16
    """Blocks."""
    num_heads: int = 16
    """Attention heads, of queries."""
    num_kv_heads: int = 16
    """Heads of keys and values; they divide the heads of queries."""
    mlp_width: int = 1024
    """Width of dense feed-forward layers, of which OLMoE has none."""
    rotary_base: float = 10000.0
    """Base of the wavelengths of rotary positions."""
    experts: ExpertsConfig | None = OLMOE_EXPERTS
    """The experts of every layer."""
    clip_qkv: float | None = None
    """The largest absolute value of a query's, key's or value's numbers before they are turned; larger ones are
    clipped. None: none are."""

    def __post_init__(self):
        super().__post_init__()
        checks.above(self, 0, "clip_qkv")
        checks.rule(self, "head_norms", not self.head_norms, "OLMoE norms all heads together")

    def backbone(self, execution: Execution) -> "OlmoeBackbone":
        """Returns the model below its head."""
        return OlmoeBackbone(self, execution)


class JointNormAttention(Attention):
    """Attention whose queries, all heads' together, go through one RMSNorm, and whose keys through another."""

    norm_epsilon: float = 1e-5
    """Added to the mean square."""
    clip: float | None = None
    """The largest absolute value of queries, keys and values, after the norms; None: none is."""

    def setup(self):
        super().setup()
        self.query_norm = RMSNorm(self.norm_epsilon, self.execution.compute_dtype)
        self.key_norm = RMSNorm(self.norm_epsilon, self.execution.compute_dtype)

    def projected(self, name: Literal["query", "key", "value"], x_BTD: jax.Array) -> jax.Array:
        """Returns queries, keys or values before they are turned, [B, T, H, K]."""
        heads_BTHK = super().projected(name, x_BTD)
        if name != "value":
            norm = self.query_norm if name == "query" else self.key_norm
            joint_BTX = heads_BTHK.reshape(*heads_BTHK.shape[:2], -1)
            heads_BTHK = norm(joint_BTX).reshape(heads_BTHK.shape)
        if self.clip is None:
            return heads_BTHK
        # In bfloat16, jax 0.10.2 on a CPU loses the gradients of queries and keys in large batches.
        return jnp.clip(heads_BTHK.astype(jnp.float32), -self.clip, self.clip).astype(heads_BTHK.dtype)


class OlmoeBlock(LlamaBlock):
    """LLaMA's block with OLMoE's attention."""

    config: OlmoeConfig

    @nn.nowrap
    def attention(self) -> Attention:
        """Returns the module of attention."""
        return JointNormAttention(
            **self.attention_fields(), norm_epsilon=self.config.norm_epsilon, clip=self.config.clip_qkv
        )


class OlmoeBackbone(LlamaBackbone):
    """LLaMA's backbone of OLMoE's blocks."""

    block: ClassVar[type[PreNormBlock]] = OlmoeBlock
