"""T5 and mT5 in Transformers, which differ in how they mark a head that is the embedding."""

import dataclasses
from typing import Any

from transformer.errors import UserError
from transformer.interop.engine import Table
from transformer.interop.family import Family
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import ACTIVATIONS, Field, Same
from transformer.interop.rules import Part, attention, dense, embedding, norm, under, unembedding
from transformer.models.t5 import T5Config

_FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("d_model", "width"),
    Field("d_kv", "head_width"),
    Field("d_ff", "mlp_width"),
    Field("num_layers", "num_encoder_layers"),
    Field("num_decoder_layers", "num_decoder_layers"),
    Field("num_heads", "num_heads"),
    Field("relative_attention_num_buckets", "relative_buckets", 32),
    Field("relative_attention_max_distance", "relative_distance", 128),
    Field("dropout_rate", "dropout", 0.1),
    Field("classifier_dropout", "classifier_dropout", 0.0),
    Field("layer_norm_epsilon", "norm_epsilon", 1e-6),
    Field("decoder_start_token_id", "decoder_start_id", 0),
    # The next two are `feed_forward_proj`, in the words of Transformers' own config.
    Field("dense_act_fn", "activation", values=ACTIVATIONS),
    Field("is_gated_act", "gated"),
    Field("tie_word_embeddings", "tie_embeddings"),
)


def _normalise(config: dict[str, Any], feed_forward: str) -> dict[str, Any]:
    """Returns config.json with `feed_forward_proj` (by default `feed_forward`) taken apart and the decoder's layers."""
    name = config.pop("feed_forward_proj", feed_forward)
    if name is None:
        raise UserError("config.json: feed_forward_proj = None is not supported")
    gate, _, activation = name.rpartition("-")
    if gate not in ("", "gated"):
        raise UserError(f"config.json: feed_forward_proj = {name!r} is not supported")
    # What calls itself gated-gelu is computed with the tanh approximation.
    parts = {"is_gated_act": bool(gate), "dense_act_fn": "gelu_new" if name == "gated-gelu" else activation}
    for part, value in parts.items():
        if config.get(part, value) != value:
            raise UserError(f"config.json: {part} = {config[part]!r} is not what feed_forward_proj = {name!r} means")
    if config.get("num_decoder_layers") is None:
        config["num_decoder_layers"] = config.get("num_layers")
    return {**config, **parts}


def _normalise_t5(config: dict[str, Any]) -> dict[str, Any]:
    config = _normalise(config, "relu")
    # Version 1.1 says tie_word_embeddings = false. Transformers 5 reads that as "do not scale the head's input", ties
    # where the file holds one table alone, and writes tie_word_embeddings = true and scale_decoder_outputs = false.
    tied = config.pop("tie_word_embeddings", True) is not False
    scaled = config.pop("scale_decoder_outputs", tied)
    if scaled and not tied:
        raise UserError("config.json: scale_decoder_outputs = True without tied embeddings is not supported")
    return {**config, "tie_word_embeddings": scaled}


def _normalise_mt5(config: dict[str, Any]) -> dict[str, Any]:
    # Transformers ignores what config.json says, and never scales the head's input. Every mT5 has a head of its own.
    return {**_normalise(config, "gated-gelu"), "tie_word_embeddings": False}


def _denormalise(config: dict[str, Any]) -> dict[str, Any]:
    activation, gated = config.pop("dense_act_fn"), config.pop("is_gated_act")
    name = "gelu" if gated and activation == "gelu_new" else activation
    return {**config, "feed_forward_proj": f"gated-{name}" if gated else name}


_BACKBONE: dict[str, Part] = {
    "block.0.layer.0.SelfAttention.relative_attention_bias": embedding("relative_bias"),
    "final_layer_norm": norm("final_norm", bias=False),
}
"""The modules of the encoder or the decoder beside its layers."""


def _layer(side: str, gated: bool) -> dict[str, Part]:
    """Returns the modules of an encoder's or a decoder's layer: two or three numbered sublayers, each with its norm."""
    layer: dict[str, Part] = {
        "0.layer_norm": norm("attention_norm", bias=False),
        **attention("0.SelfAttention", "attention", "qkvo", biases="none"),
    }
    if side == "decoder":
        layer["1.layer_norm"] = norm("cross_attention_norm", bias=False)
        layer |= attention("1.EncDecAttention", "cross_attention", "qkvo", biases="none")
    index = 2 if side == "decoder" else 1
    layer[f"{index}.layer_norm"] = norm("mlp_norm", bias=False)
    matrices = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if gated else {"wi": "up", "wo": "down"}
    for name, matrix in matrices.items():
        layer[f"{index}.DenseReluDense.{name}"] = dense(f"mlp/{matrix}", bias=False)
    return layer


def _table(config: T5Config) -> Table:
    classifies = config.head == "sequence_classification"
    prefix = "transformer." if classifies else ""
    words, aliases, twins = f"{prefix}shared.weight", {}, {}
    rules = [*under(prefix, "backbone/", {"shared": embedding("token_embedding")})]
    for side in ("encoder", "decoder"):
        theirs, ours = f"{prefix}{side}.", f"backbone/{side}/"
        rules += under(theirs, ours, _BACKBONE)
        rules += under(f"{theirs}block.{{layer}}.layer.", f"{ours}stack/layers/", _layer(side, config.gated))
        aliases[f"{theirs}embed_tokens.weight"] = words
    if config.head == "language_model" and config.tie_embeddings:
        aliases["lm_head.weight"] = words
    elif config.head == "language_model":
        rules += under("", "", {"lm_head": unembedding("head")})
        # Transformers 5 ties every T5 that it makes, also where it does not scale the head's input.
        twins["lm_head.weight"] = words
    elif classifies:
        parts = {"dense": dense("head/dense"), "out_proj": dense("head/out")}
        rules += under("classification_head.", "", parts)
    # The first files have this one too, which nothing reads.
    unused = (r"(transformer\.)?decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
    return Table(tuple(rules), prefix=prefix, aliases=aliases, twins=twins, ignored=unused)


def _has_name(config: T5Config) -> bool:
    """Whether `feed_forward_proj` has a name for the feed-forward layers: for a gated exact GELU, it has none.

    Nor for experts, which Transformers' T5 does not have.
    """
    return config.experts is None and not (config.gated and config.activation == "gelu")


def _heads(letter: str) -> dict[str, str]:
    """Returns head -> class of T5, or of mT5."""
    return {
        "language_model": f"{letter}T5ForConditionalGeneration",
        "sequence_classification": f"{letter}T5ForSequenceClassification",
        "none": f"{letter}T5Model",
    }


T5 = Family(
    model_type="t5",
    config=T5Config,
    fields=_FIELDS,
    heads=_heads(""),
    table=_table,
    harmless=("n_positions", "initializer_factor"),
    inert={
        "hidden_size": (Same("d_model"),),
        "num_attention_heads": (Same("num_heads"),),
        "num_hidden_layers": (Same("num_layers"),),
    },
    spelled={"feed_forward_proj": str, "scale_decoder_outputs": bool},
    normalise=_normalise_t5,
    denormalise=_denormalise,
    fits=_has_name,
    flax=FlaxClasses(heads=("language_model", "none"), scale="weight"),
)

MT5 = dataclasses.replace(
    T5,
    model_type="mt5",
    heads=_heads("M"),
    normalise=_normalise_mt5,
    fits=lambda config: _has_name(config) and not config.tie_embeddings,
)

FAMILIES = (T5, MT5)
