"""SpanBERT: BERT without sentence pairs, also told each masked word from the tokens around its span.

Joshi et al. 2020, "SpanBERT: improving pre-training by representing and predicting spans".

Shape letters: B batch, T length, P masked positions, D model width, V vocabulary.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.execution import Execution
from transformer.layers.heads import LanguageModelHead, LanguageModelOutput
from transformer.layers.primitives import Embedding, Initializer, LayerNorm, Linear
from transformer.models.bert import BertConfig
from transformer.models.encoder import Encoder, EncoderHead, EncoderOutput
from transformer.ops.elementwise import ACTIVATIONS
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class SpanBertConfig(BertConfig):
    """A SpanBERT; the defaults are SpanBERT base's, cased. Its backbone is a BERT's of the same sizes."""

    family: ClassVar[str] = "spanbert"
    tasks: ClassVar[frozenset[str]] = frozenset({"boundary"})
    heads: ClassVar[tuple[str, ...]] = tuple(head for head in BertConfig.heads if head != "next_sentence")
    pooled_heads: ClassVar[frozenset[str]] = BertConfig.pooled_heads - {"pretraining", "next_sentence"}

    vocab_size: int = 28996
    """Word pieces."""
    boundary_offsets: int = 20
    """Places in a span that the boundary head tells apart: the longest span (its released code, `max_pair_targets`)."""
    boundary_width: int = 200
    """Width of their embedding."""
    head: EncoderHead = "pretraining"
    """What the hidden states are for; pretraining is the masked words, and the same from their spans' boundaries."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least(self, 1, "boundary_offsets", "boundary_width")

    @property
    def initializer(self) -> Initializer:
        """How every matrix and table starts (its released code, `init_bert_weights`)."""
        return nn.initializers.normal(0.02)

    @property
    def tied_norms(self) -> tuple[str, ...]:
        """Paths of the norms whose output meets the embedding as unembedding: the boundary head's always does."""
        return (*super().tied_norms, *(("boundary/second_norm",) if self.head == "pretraining" else ()))

    def build(self, execution: Execution) -> "SpanBert":
        """Returns the module: the model without its weights."""
        return SpanBert(self, execution)

    def example_inputs(self, batch: int = 1, length: int = 1) -> dict[str, Any]:
        """Returns inputs of the model, all zeros: what its `init` needs."""
        names = ("boundary_left", "boundary_right", "boundary_offset") if self.head == "pretraining" else ()
        return super().example_inputs(batch, length) | dict.fromkeys(names, jnp.zeros((batch, 1), jnp.int32))


class SpanBert(Encoder):
    """An encoder that has a boundary head as well, where it is pretrained."""

    config: SpanBertConfig

    def setup(self):
        super().setup()
        if self.config.head == "pretraining":
            self.boundary = BoundaryHead(self.config, self.execution.compute_dtype)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        *,
        token_types: jax.Array | None = None,
        masked_positions: jax.Array | None = None,
        boundary_left: jax.Array | None = None,
        boundary_right: jax.Array | None = None,
        boundary_offset: jax.Array | None = None,
        deterministic: bool = True,
    ) -> EncoderOutput:
        """Returns what an `Encoder` does and, where boundaries are given in pretraining, the boundary head's scores.

        Args:
          tokens: and those that are not named here, as an `Encoder` has them.
          boundary_left: int32 [B, P], for each masked word the place of the token before its span.
          boundary_right: int32 [B, P], the place of the token after its span.
          boundary_offset: int32 [B, P], the word's place in its span, from 0.
        """
        hidden_BTD, routers = self.encode(tokens, positions, segment_ids, token_types, deterministic=deterministic)
        output = self.predict(hidden_BTD, masked_positions, deterministic=deterministic).replace(routers=routers)
        if self.config.head != "pretraining" or boundary_left is None:
            return output
        if boundary_right is None or boundary_offset is None:
            raise ValueError("boundary_left needs boundary_right and boundary_offset")
        table_VD = self.backbone.token_embedding.embedding
        return output.replace(
            boundary=self.boundary(hidden_BTD, boundary_left, boundary_right, boundary_offset, table_VD)
        )


class BoundaryHead(nn.Module):
    """The span boundary objective's scores (section 3.2); always tied to the embedding, with a bias of its own.

    h0 = [x_(s-1); x_(e+1); p_(i-s)], h1 = LayerNorm(GeLU(W1 h0)), h2 = LayerNorm(GeLU(W2 h1)), for the i-th token in a
    span from s to e. The layers have biases, and offsets start at 0, as in the released code.
    """

    config: SpanBertConfig
    dtype: Any

    @nn.compact
    def __call__(
        self,
        hidden_BTD: jax.Array,
        left_BP: jax.Array,
        right_BP: jax.Array,
        offset_BP: jax.Array,
        embedding_VD: jax.Array,
    ) -> LanguageModelOutput:
        """Returns the scores of the words at P places."""
        config, dtype, init = self.config, self.dtype, self.config.initializer
        table = Embedding(
            config.boundary_offsets, config.boundary_width, ("distances", "out"), dtype, init, name="offset_embedding"
        )
        # All words of a span read the same two tokens, whose gradients add up in float32.
        hidden_BTD = hidden_BTD.astype(jnp.float32)
        around = [jnp.take_along_axis(hidden_BTD, place[:, :, None], axis=1) for place in (left_BP, right_BP)]
        x = jnp.concatenate([*(states.astype(dtype) for states in around), table(offset_BP)], axis=-1)
        x = constrain(x, *RESIDUAL, padded=True)
        # The first kernel's inputs, 2 D + the offsets' width, need not divide by any mesh; its outputs do.
        for name, axes in (("first", ("out", "embed")), ("second", ("embed", "out"))):
            x = ACTIVATIONS[config.activation](Linear((config.width,), axes, dtype, kernel_init=init, name=name)(x))
            x = LayerNorm(config.norm_epsilon, dtype, name=f"{name}_norm")(x)
        return LanguageModelHead(config.vocab_size, tied=True, use_bias=True, name="unembedding")(x, embedding_VD)
