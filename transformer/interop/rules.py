"""Rules: the parts of families' tables, which are dense layers, norms, embeddings, attentions and heads.

A table maps the names of their modules to parts, which name ours; `under` puts them in place on both sides:

    under("h.{layer}.", LAYERS, {"ln_1": norm("attention_norm"), "mlp.c_fc": dense("mlp/up")})
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from transformer.interop.engine import Rule
from transformer.interop.transforms import FLAT, fused, kernel
from transformer.models.decoder import DecoderHead

Part = tuple[Rule, ...]
"""Rules of a module's tensors, its weight and perhaps a bias. Their names are relative to it, as in "weight"."""
Parts = Mapping[str, Part]
"""Name of a module of theirs -> the rules of its tensors."""

LAYERS = "backbone/stack/layers/"
"""Path of the layers of a model with one stack."""
_PROJECTIONS = ("query", "key", "value", "out")


def under(theirs: str, ours: str, parts: Parts, layers: range | None = None) -> tuple[Rule, ...]:
    """Returns the rules of parts, whose names start with `theirs` and whose paths of ours with `ours`.

    Args:
      theirs: beginning of their names.
      ours: beginning of our paths.
      parts: the modules.
      layers: as `Rule.layers`.
    """
    return tuple(
        Rule(f"{theirs}{name}.{rule.theirs}", tuple(f"{ours}{path}" for path in rule.ours), rule.transform, layers)
        for name, part in parts.items()
        for rule in part
    )


def dense(*ours: str, inputs: int = 1, bias: bool = True, transposed: bool = True) -> Part:
    """Returns the part of a dense layer.

    Args:
      *ours: paths of our modules: several are fused to one of theirs, along the outputs.
      inputs: number of our kernel's input dimensions.
      bias: whether there is a bias.
      transposed: whether their weight is [outputs, inputs] (PyTorch's Linear), not [inputs, outputs] (GPT-2's Conv1D).
    """
    weight, flat = kernel(inputs, transposed=transposed), FLAT
    if len(ours) > 1:
        weight, flat = fused(weight, axis=0 if transposed else 1), fused(flat)
    kernels = Rule("weight", tuple(f"{path}/kernel" for path in ours), weight)
    return (kernels, Rule("bias", tuple(f"{path}/bias" for path in ours), flat)) if bias else (kernels,)


def norm(ours: str, *, bias: bool = True) -> Part:
    """Returns the part of a LayerNorm, or without a bias of a root-mean-square norm."""
    scale = Rule("weight", (f"{ours}/scale",))
    return (scale, Rule("bias", (f"{ours}/bias",))) if bias else (scale,)


def embedding(ours: str) -> Part:
    """Returns the part of a table with a row for each word, position or kind."""
    return (Rule("weight", (f"{ours}/embedding",)),)


def unembedding(ours: str, *, bias: bool = False) -> Part:
    """Returns the part of the layer from hidden states to the words' scores, with a row for each word on both sides."""
    rows = Rule("weight", (f"{ours}/kernel",))
    return (rows, Rule("bias", (f"{ours}/bias",))) if bias else (rows,)


def attention(
    theirs: str, ours: str, names: Sequence[str], *, biases: Literal["all", "qkv", "none"] = "all"
) -> dict[str, Part]:
    """Returns the parts of an attention's four projections.

    Args:
      theirs: the attention's name.
      ours: the attention's path.
      names: names of the projections to queries, keys, values and the output, below `theirs`.
      biases: projections that have a bias: "all", "qkv" (all but the output's) or "none".
    """
    return {
        f"{theirs}.{name}": dense(
            f"{ours}/{projection}",
            inputs=2 if projection == "out" else 1,
            bias=biases == "all" or (biases == "qkv" and projection != "out"),
        )
        for name, projection in zip(names, _PROJECTIONS, strict=True)
    }


def experts(theirs: str, ours: str, names: Sequence[str] = ("gate_proj", "up_proj", "down_proj")) -> dict[str, Part]:
    """Returns the parts of a mixture of experts: the router, and each expert's three matrices.

    Args:
      theirs: the mixture's name.
      ours: the mixture's path.
      names: names of an expert's gate, up and down, below its number.
    """
    matrices = zip(names, ("gate", "up", "down"), strict=True)
    return {
        f"{theirs}.gate": dense(f"{ours}/router", bias=False),
        **{f"{theirs}.experts.{{expert}}.{name}": dense(f"{ours}/{matrix}", bias=False) for name, matrix in matrices},
    }


def decoder_head(
    head: DecoderHead, *, tied: bool, words: str, token_classifier: str = "score"
) -> tuple[tuple[Rule, ...], dict[str, str]]:
    """Returns the rules of a decoder-only model's head, and the aliases of a tied head; all families name them alike.

    Args:
      head: our head.
      tied: whether the unembedding is the embedding.
      words: the embedding's name.
      token_classifier: the family's name for the layer of its token classifier.
    """
    if head == "language_model" and tied:
        return (), {"lm_head.weight": words}
    parts: dict[DecoderHead, Parts] = {
        "language_model": {"lm_head": unembedding("head")},
        "sequence_classification": {"score": dense("head/out", bias=False)},
        "token_classification": {token_classifier: dense("head/out")},
        "question_answering": {"qa_outputs": dense("head/out")},
        "none": {},
    }
    return under("", "", parts[head]), {}
