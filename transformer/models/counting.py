"""Parameters and FLOPs of any architecture, by kind, derived from its parameter tree.

A weight costs a multiply-add for every token that meets it, two FLOPs, and twice that again in the backward pass. The
tree says which weights there are, and its paths which tokens meet them: in an encoder-decoder each side's own, of the
decoder's cross-attention the keys and values the source's. So no family has a formula of its own. An expert's weights
are met by the tokens that choose it: by K of E on average, however uneven the choice; what an expert of limited
capacity drops is counted.

Shape letters: S length of the encoder's sequence, T of the decoder's or the only one, D model width, H heads, K head
width, V vocabulary, E embedding width.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from transformer.params import Parameter, is_stacked, name_of

PARAMETER_KINDS: tuple[str, ...] = ("embedding", "positions", "attention", "mlp", "norms", "head")
"""What a parameter is for: the words' vectors (token types', and what widens them), places, attention's projections,
feed-forward layers, normalisation, and all that reads the last hidden states. What is tied is embedding."""

FLOP_KINDS: tuple[str, ...] = ("embedding", "attention", "scores", "mlp", "head")
"""What a product is for: as above, and attention's two products of tokens with tokens."""

_BACKBONE = {
    "token_embedding": "embedding",
    "patch_embedding": "embedding",
    "class_token": "embedding",
    "register_tokens": "embedding",
    "distillation_token": "embedding",
    "mask_token": "embedding",
    "type_embedding": "embedding",
    "projection": "embedding",
    "position_embedding": "positions",
    "relative_bias": "positions",
    "sinusoids": "positions",
    "stem": "embedding",
    "attention": "attention",
    "attention_scale": "attention",
    "cross_attention": "attention",
    "mlp": "mlp",
    "mlp_scale": "mlp",
}
"""Module, or an array of the backbone's own -> what its parameters are for, its norms apart."""

_WORD_HEADS = ("language_model", "masked_lm", "pretraining")
"""The heads that end with a product with the words' vectors."""

_ROW_HEADS = ("sequence_classification", "multiple_choice")
"""The heads that a sequence meets once."""


def kind_of(parameter: Parameter) -> str:
    """Returns one of `PARAMETER_KINDS`; raises KeyError for a module of the backbone that no kind is known of."""
    if parameter.modules[0] != "backbone":
        return "head"
    if any(module.endswith("norm") for module in parameter.modules):
        return "norms"
    for module in parameter.path.split("/"):
        if module in _BACKBONE:
            return _BACKBONE[module]
    raise KeyError(f"{parameter.path}: give one of its modules a kind in {__name__}")


class AttentionCount(NamedTuple):
    """What one attention module computes for one example, in all layers that it stands for."""

    heads: int
    head_width: float
    """The mean of the widths of keys and of values, which latent attention alone has apart."""
    pairs: float
    """Pairs of a query and a key, added up over the layers."""


class Places(abc.ABC):
    """How many places of an example (tokens, patches, frames) meet what. Lengths are as `Counts.flops_by_kind`'s."""

    @abc.abstractmethod
    def met(self, parameter: Parameter, length: int, target_length: int) -> float:
        """Returns how many places of an example meet a weight."""

    @abc.abstractmethod
    def pairs(self, query: Parameter, length: int, target_length: int, *, causal: bool) -> float:
        """Returns the pairs of places that one layer's attention multiplies, on average over layers that differ.

        Args:
          query: the kernel of its queries.
          length: as `Counts.flops_by_kind`'s.
          target_length: likewise.
          causal: whether to count only pairs that are seen.
        """

    def words(self, length: int, target_length: int) -> int:
        """Returns how many places get the scores of words."""
        del target_length
        return length


@dataclasses.dataclass(frozen=True)
class TokenPlaces(Places):
    """The places of a model that reads tokens."""

    kind: str
    head: str
    windows: tuple[int | None, ...] = (None,)
    """How many tokens back a causal layer's queries see, themselves included; None: all. Layers take turns."""

    def met(self, parameter: Parameter, length: int, target_length: int) -> int:
        modules = parameter.modules
        if modules[0] in ("pooler", "sentence") or (modules[0] == "head" and self.head in _ROW_HEADS):
            return 1
        if self.kind != "encoder_decoder" or "encoder" in modules:
            return length
        of_source = "cross_attention" in modules and modules[-1] in ("key", "value")
        return length if of_source else target_length

    def pairs(self, query: Parameter, length: int, target_length: int, *, causal: bool) -> float:
        if "cross_attention" in query.modules:
            return target_length * length
        if self.kind == "encoder" or "encoder" in query.modules:
            return length**2
        tokens = self.words(length, target_length)
        reaches = [tokens if window is None else min(tokens, window) for window in self.windows]
        # Of the first W tokens the t-th sees t, of the others each W.
        seen = [reach * (tokens - reach) + reach * (reach + 1) / 2 if causal else tokens * reach for reach in reaches]
        return sum(seen) / len(seen)

    def words(self, length: int, target_length: int) -> int:
        return target_length if self.kind == "encoder_decoder" else length


@dataclasses.dataclass(frozen=True)
class ImagePlaces(Places):
    """The places of a model that reads images, whose lengths are its own."""

    patches: int
    """Patches of an image."""
    tokens: int
    """What the blocks read: patches, and what joins them."""

    def met(self, parameter: Parameter, length: int, target_length: int) -> int:
        del length, target_length
        modules = parameter.modules
        if "patch_embedding" in modules:
            return self.patches
        reads_all = modules[0] == "backbone" or modules[-1] in ("key", "value")  # the pooling attention's
        return self.tokens if reads_all else 1

    def pairs(self, query: Parameter, length: int, target_length: int, *, causal: bool) -> float:
        del length, target_length, causal
        return self.tokens * (self.tokens if query.modules[0] == "backbone" else 1)


@dataclasses.dataclass(frozen=True)
class MaskedImagePlaces(ImagePlaces):
    """The places of a masked autoencoder: its encoder reads some patches, its decoder all."""

    decoded: int
    """What the decoder's blocks read."""

    def met(self, parameter: Parameter, length: int, target_length: int) -> int:
        match parameter.modules[0]:
            case "backbone":
                return super().met(parameter, length, target_length)
            case "widen":
                return self.tokens
            case "decoder":
                return self.decoded
            case _:  # pixels
                return self.patches

    def pairs(self, query: Parameter, length: int, target_length: int, *, causal: bool) -> float:
        del length, target_length, causal
        return (self.tokens if query.modules[0] == "backbone" else self.decoded) ** 2


@dataclasses.dataclass(frozen=True)
class TwoTowersPlaces(Places):
    """The places of a model that reads an image and its caption apart; `length` is the caption's."""

    images: Places
    """Those of the image."""
    causal_text: bool
    """Whether a token of the caption sees only those before it."""

    def met(self, parameter: Parameter, length: int, target_length: int) -> float:
        if "text" in parameter.modules:
            return length
        return self.images.met(parameter, length, target_length)

    def pairs(self, query: Parameter, length: int, target_length: int, *, causal: bool) -> float:
        if "text" not in query.modules:
            return self.images.pairs(query, length, target_length, causal=causal)
        return length * (length + 1) / 2 if causal and self.causal_text else length**2


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a model has and what it costs: its parameters, and what their tree does not say. `Architecture.counts`."""

    parameters: tuple[Parameter, ...]
    head: str
    stacks: Mapping[str, int]
    """Module that holds a stack of layers -> how many."""
    places: Places
    """How many places of an example meet what."""
    expert_share: float = 1.0
    """K / E: the share of tokens that an expert meets."""

    def params_by_kind(self) -> dict[str, int]:
        """Returns each of `PARAMETER_KINDS` -> parameters, tied ones counted once."""
        counts = dict.fromkeys(PARAMETER_KINDS, 0)
        for parameter in self.parameters:
            counts[kind_of(parameter)] += parameter.size
        return counts

    def flops_by_kind(self, length: int, target_length: int = 0, *, causal: bool = False) -> dict[str, float]:
        """Returns each of `FLOP_KINDS` -> FLOPs of training on one example, forward and backward (twice forward).

        Counted are products: 6 for a weight and a token that meets it, and 12 H K for a pair of tokens in a layer's
        attention. Not counted: biases, norms, softmax, activations, the embedding look-up, the loss, the optimizer, and
        what rematerialisation computes again. A masked language model's head is counted for every token.

        Args:
          length: S in an encoder-decoder, else T; of a model with a `fixed_length` that.
          target_length: T in an encoder-decoder.
          causal: whether to count only pairs that are seen, which a kernel that skips masked blocks computes; else all,
            or a window's at each token, as if nothing were masked.
        """
        counts = dict.fromkeys(FLOP_KINDS, 0.0)
        for parameter in self.parameters:
            if name_of(parameter.path) == "kernel":
                met = self.places.met(parameter, length, target_length) * self._runs(parameter) * self.share(parameter)
                counts[kind_of(parameter)] += 6.0 * parameter.size * met
        counts["head"] += 6.0 * self.tied_products * self.places.words(length, target_length)
        for attention in self.attentions(length, target_length, causal=causal):
            counts["scores"] += 12.0 * attention.heads * attention.head_width * attention.pairs
        return counts

    def attentions(self, length: int, target_length: int = 0, *, causal: bool = False) -> Iterator[AttentionCount]:
        """Yields what each attention module computes; arguments as `flops_by_kind`'s."""
        out_shapes = {each.path: each.shape for each in self.parameters if each.path.endswith("/out/kernel")}
        for parameter in self.parameters:
            if parameter.path.endswith("/query/kernel"):
                heads, key_width = parameter.shape[-2:]
                value_width = out_shapes[parameter.path.replace("/query/", "/out/")][-2]
                head_width = key_width if key_width == value_width else (key_width + value_width) / 2
                layers = parameter.layers * self._runs(parameter)
                pairs = layers * self.places.pairs(parameter, length, target_length, causal=causal)
                yield AttentionCount(heads, head_width, pairs)

    def share(self, parameter: Parameter) -> float:
        """Returns the share of tokens that meet a weight of what they come by: less than 1 of experts alone."""
        return self.expert_share if "experts" in parameter.names else 1.0

    @property
    def embedding_table(self) -> int:
        """V E, the size of the words' table; 0 where no words are read."""
        return next((each.size for each in self.parameters if each.modules[1:] == ["token_embedding"]), 0)

    def _runs(self, parameter: Parameter) -> int:
        """Returns how often a token meets the weights: more than once only where layers share them (ALBERT)."""
        if is_stacked(parameter.names) or "layers" not in parameter.modules:
            return 1
        return next(layers for module, layers in self.stacks.items() if module in parameter.modules)

    @property
    def tied_products(self) -> int:
        """Returns the weights of products with the words' own table, which no kernel stands for."""
        paths = {parameter.path for parameter in self.parameters}
        untied = not paths.isdisjoint({"head/kernel", "head/unembedding/kernel"})
        tied = int(self.head in _WORD_HEADS and not untied) + int(any(path.startswith("boundary/") for path in paths))
        return tied * self.embedding_table if tied else 0
