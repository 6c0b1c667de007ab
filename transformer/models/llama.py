"""LLaMA and what is built like it (Mistral, Qwen2, Qwen3): pre-norm blocks of rotary grouped attention and SwiGLU.

Touvron et al. 2023, "LLaMA", section 2.2, and "Llama 2", section 2.2 (grouped queries); Grattafiori et al. 2024, "The
Llama 3 herd of models", section 3.2; Jiang et al. 2023, "Mistral 7B", section 2 (sliding window); Yang et al. 2024,
"Qwen2 technical report", section 2.2 (biases); Yang et al. 2025, "Qwen3 technical report", section 2 (norms of heads).

Shape letters: B batch, T length, D model width, H heads, G key-value heads, K head width, F MLP width, V vocabulary,
N layers.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn

from transformer import checks
from transformer.layers.attention import Attention
from transformer.layers.execution import Execution
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.mixed import Layout
from transformer.layers.mlp import GatedMLP
from transformer.layers.positions import Llama3Scaling, Rotary
from transformer.models.pre_norm import PreNormBackbone, PreNormBlock, PreNormConfig

_BIASES: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "qkv": frozenset({"query", "key", "value"}),
    "all": frozenset({"query", "key", "value", "out"}),
}


@dataclasses.dataclass(frozen=True)
class LlamaConfig(PreNormConfig):
    """A model of LLaMA's kind; the defaults are LLaMA 3 8B's (8,030,261,248 parameters)."""

    family: ClassVar[str] = "llama"

    vocab_size: int = 128256
    """Words."""
    context_length: int = 8192
    """The most tokens that the model is made for; no parameter depends on it."""
    width: int = 4096
    """Model width: of the residual stream."""
    num_layers: int = 32
    """Blocks."""
    num_heads: int = 32
    """Attention heads, of queries."""
    num_kv_heads: int = 8
    """Heads of keys and values; they divide the heads of queries."""
    head_width: int = 128
    """Width of a head, even; the heads together may be wider or narrower than the model."""
    mlp_width: int = 14336
    """Width of the feed-forward layers."""
    activation: str = "silu"
    """Activation of the feed-forward layers' gate: silu, gelu, gelu_tanh or relu."""
    norm_epsilon: float = 1e-5
    """Added to the mean square in RMSNorm."""
    rotary_base: float = 500000.0
    """Base of the wavelengths of rotary positions (LLaMA 1 and 2: 10,000)."""
    rotary_scaling: Llama3Scaling | None = None
    """How LLaMA 3.1 stretches the wavelengths to a longer context; None leaves them."""
    window: int | None = None
    """Tokens back that a token sees, itself included (Mistral 7B: 4096); None: all."""
    attention_biases: Literal["none", "qkv", "all"] = "none"
    """Which attention projections have a bias: none, query, key and value (Qwen2), or the output's too."""
    mlp_biases: bool = False
    """Whether the feed-forward layers have biases."""
    head_norms: bool = False
    """Whether every head's queries and keys go through an RMSNorm before they are turned (Qwen3)."""
    attention_dropout: float = 0.0
    """Probability of dropping attention probabilities."""
    experts: ExpertsConfig | None = None
    """Experts in the place of the feed-forward layers (Mixtral); None: they are dense."""
    dense_layers: tuple[int, ...] = ()
    """Layers, from 0 on, that are dense where the others have experts (Qwen3-MoE's `mlp_only_layers`)."""
    tie_embeddings: bool = False
    """Whether the head multiplies with the embedding, or with a matrix of its own."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least(self, 1, "num_kv_heads", "head_width", "mlp_width")
        checks.divides(self, "num_kv_heads", "num_heads")
        checks.rule(self, "head_width", self.head_width % 2 == 0, "rotary positions need an even one")
        checks.above(self, 0, "rotary_base")
        checks.at_least(self, 1, "window")
        checks.choice(self, "attention_biases", _BIASES)
        checks.within(self, "[0, 1)", "attention_dropout")
        plain = self.experts is None or not self.mlp_biases
        checks.rule(self, "mlp_biases", plain, "`experts` have none")
        numbers = list(self.dense_layers)
        ordered = numbers == sorted({*numbers} & {*range(self.num_layers)})
        checks.rule(self, "dense_layers", ordered, f"numbers of layers, 0 to {self.num_layers - 1}, in rising order")
        some = not numbers or (self.experts is not None and len(numbers) < self.num_layers)
        checks.rule(self, "dense_layers", some, "the other layers, one at least, must have `experts`")

    @property
    def routing(self) -> ExpertsConfig | None:
        """The experts that stand in the place of feed-forward layers; None where there are none."""
        return self.experts

    @property
    def layout(self) -> Layout:
        """Which stacks hold the layers."""
        sparse = self.experts is not None
        return Layout.of([sparse and layer not in self.dense_layers for layer in range(self.num_layers)])

    @property
    def fewest_layers(self) -> int:
        """The least number of layers that has every kind."""
        return self.num_layers if self.dense_layers else 1

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        """How many tokens back the layers' queries see."""
        return (self.window,)

    @property
    def cache_heads(self) -> tuple[int, int]:
        """Key-value heads, and the width of each."""
        return self.num_kv_heads, self.head_width

    def backbone(self, execution: Execution) -> "LlamaBackbone":
        """Returns the model below its head."""
        return LlamaBackbone(self, execution)


class LlamaBlock(PreNormBlock):
    """A pre-norm block of rotary grouped attention and a gated MLP.

    All matrices start at a standard deviation of 0.02, as in Transformers: the papers and Meta's code do not say.
    """

    config: LlamaConfig

    @nn.nowrap
    def attention(self) -> Attention:
        """Returns the module of attention."""
        return Attention(**self.attention_fields())

    @nn.nowrap
    def attention_fields(self) -> dict[str, Any]:
        """Returns the fields of the module of attention."""
        config = self.config
        return {
            "width": config.width,
            "num_heads": config.num_heads,
            "head_width": config.head_width,
            "execution": self.execution,
            "num_kv_heads": config.num_kv_heads,
            "biases": _BIASES[config.attention_biases],
            "head_norm_epsilon": config.norm_epsilon if config.head_norms else None,
            "rotary": Rotary(config.rotary_base, config.rotary_scaling),
            "dropout": config.attention_dropout,
            "name": "attention",
        }

    @nn.nowrap
    def dense(self) -> GatedMLP:
        """Returns the feed-forward layer of a layer without experts."""
        config = self.config
        dtype = self.execution.compute_dtype
        return GatedMLP(config.mlp_width, config.activation, dtype, use_bias=config.mlp_biases, name="mlp")


class LlamaBackbone(PreNormBackbone):
    """The backbone of such blocks."""

    block: ClassVar[type[PreNormBlock]] = LlamaBlock
