"""Conventions: what people mean by a model's parameters N and by the FLOPs C of its training. Each has a name.

Laws fitted under one convention say nothing under another: the name goes with every number. A convention is a function
of an architecture and an example's lengths; `CONVENTIONS` lists them. All take the backward pass for twice the forward
one. None counts the arithmetic of biases, norms, activations, the loss and the optimizer; what is computed twice counts
in `megatron` alone.

Shape letters: L layers, D model width, H heads, K head width, S length of the encoder's sequence, T of the decoder's or
the only one, V vocabulary, E embedding width, N parameters.
"""

from collections.abc import Callable

from transformer.errors import UserError, choice_hint
from transformer.models.architecture import Architecture

SIZES = {
    "total": ("embedding", "positions", "attention", "mlp", "norms", "head"),
    "non-embedding": ("attention", "mlp", "norms"),
}
"""What N counts -> the kinds of parameters in it: all (Hoffmann et al. 2022, Brown et al. 2020), or blocks and norms
alone, without words, positions and head (Kaplan et al. 2020, section 2.1, who also leave out biases and norms)."""


def num_params(architecture: Architecture, size: str = "total") -> int:
    """Returns N by one of `SIZES`; raises UserError for another name."""
    counts = architecture.counts.params_by_kind()
    return sum(counts[kind] for kind in kinds_of(size))


def kinds_of(size: str) -> tuple[str, ...]:
    """Returns the kinds of parameters in one of `SIZES`; raises UserError for another name."""
    if size not in SIZES:
        raise UserError(f"unknown count of parameters {size!r}; choose from: {', '.join(SIZES)}")
    return SIZES[size]


def six_n(architecture: Architecture, length: int, target_length: int = 0) -> float:
    """6 N a token, N all parameters (Brown et al. 2020, table D.1).

    A weight is multiplied and added once forward, twice backward: 2 + 4. What a tied embedding's look-up does not cost,
    the head's product does; an untied one is counted for nothing, and attention between tokens not at all. In an
    encoder-decoder a token meets about half of the parameters: 3 N a token of either side.
    """
    return _six(architecture, "total", length, target_length)


def six_n_non_embedding(architecture: Architecture, length: int, target_length: int = 0) -> float:
    """6 N a token, N without embeddings and head (Kaplan et al. 2020, section 2.1: C = 6 N B S).

    Their table 1 without attention's 2 L T D, small where D is far above T / 12, and without the head's product, on
    which small models with many words spend most. Halved in an encoder-decoder, as `6N`.
    """
    return _six(architecture, "non-embedding", length, target_length)


def palm(architecture: Architecture, length: int, target_length: int = 0) -> float:
    """6 N + 12 L H K T a token, N all parameters (Chowdhery et al. 2022, appendix B).

    Attention multiplies each token's queries with T keys and the probabilities with T values: 2 * 2 H K T forward a
    layer, three times that in all. T is at most the window, where there is one. The paper's model FLOPs utilisation is
    by this count.
    """
    return (
        six_n(architecture, length, target_length) + architecture.counts.flops_by_kind(length, target_length)["scores"]
    )


def chinchilla(architecture: Architecture, length: int, target_length: int = 0) -> float:
    """As exact, with the embedding's look-up as a product, and softmax (Hoffmann et al. 2022, appendix F).

    Forward, for one sequence: 2 T V E embeddings; a layer's projections, 4 T T H K of scores, 3 H T T of softmax;
    feed-forward layers; 2 T D V logits. Its table of ratios to 6 N D is reached only without embeddings and logits, and
    with N counting the 13 D D L + V D parameters of relative positions.
    """
    softmax = sum(
        9.0 * attention.heads * attention.pairs for attention in architecture.counts.attentions(length, target_length)
    )
    embeddings = 6.0 * architecture.counts.embedding_table * (length + target_length)
    return exact(architecture, length, target_length) + embeddings + softmax


def megatron(architecture: Architecture, length: int, target_length: int = 0) -> float:
    """As exact, with the blocks' forward pass twice: activations are recomputed (Narayanan et al. 2021, equation 3).

    Theirs is 96 T L D D (1 + T / 6 D + V / 16 L D) a sequence: 4 passes of a block's 24 T D D + 4 T T D, 3 of the
    logits' 2 T D V. What the hardware does, then, where the others count what the model needs.
    """
    counts = architecture.counts.flops_by_kind(length, target_length)
    return sum(counts.values()) + (counts["attention"] + counts["scores"] + counts["mlp"]) / 3


def exact(architecture: Architecture, length: int, target_length: int = 0) -> float:
    """Every product by structure, attention over all pairs as if nothing were masked (`flops_per_example`).

    6 for a token and a weight that meet, 12 H K for a pair of tokens in a layer. Each side's own tokens; tied tables
    where they multiply; a window's pairs, where there is one. XLA's cost analysis agrees.
    """
    return architecture.flops_per_example(length, target_length)


def exact_causal(architecture: Architecture, length: int, target_length: int = 0) -> float:
    """As exact, with only the pairs that are seen: T (T + 1) / 2 of a causal layer's T T.

    What a kernel that skips masked blocks tends to (Dao 2023, "FlashAttention-2", section 4.1, halves so too).
    """
    return sum(architecture.counts.flops_by_kind(length, target_length, causal=True).values())


Convention = Callable[[Architecture, int, int], float]
"""(architecture, length, target length or 0) -> FLOPs of training on one example; lengths as `flops_per_example`'s."""

CONVENTIONS: dict[str, Convention] = {
    "6N": six_n,
    "6N-non-embedding": six_n_non_embedding,
    "palm": palm,
    "chinchilla": chinchilla,
    "megatron": megatron,
    "exact": exact,
    "exact-causal": exact_causal,
}
"""What each number of FLOPs is stamped with -> how it is counted."""


def convention(name: str) -> Convention:
    """Returns one of `CONVENTIONS`; raises UserError for another name, with the nearest."""
    if name not in CONVENTIONS:
        raise UserError(f"unknown convention {name!r} of counting FLOPs: {choice_hint(name, CONVENTIONS)}")
    return CONVENTIONS[name]


def flops_per_token(name: str, architecture: Architecture, length: int, target_length: int = 0) -> float:
    """Returns FLOPs of training, by convention, a token that the encoder or the decoder reads."""
    return convention(name)(architecture, length, target_length) / (length + target_length)


def _six(architecture: Architecture, size: str, length: int, target_length: int) -> float:
    met = 0.5 if architecture.kind == "encoder_decoder" else 1.0
    return 6.0 * met * num_params(architecture, size) * (length + target_length)
