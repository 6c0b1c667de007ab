"""BART in Transformers, and the parts that Marian shares with it."""

import functools

import numpy as np

from transformer.interop.engine import Rule, Table
from transformer.interop.family import Family
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import ACTIVATIONS, Field, Same
from transformer.interop.rules import Part, Parts, attention, dense, embedding, norm, under
from transformer.models.bart import BartConfig

FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("d_model", "width"),
    Field("encoder_layers", "num_encoder_layers"),
    Field("decoder_layers", "num_decoder_layers"),
    Field("encoder_attention_heads", "num_encoder_heads"),
    Field("decoder_attention_heads", "num_decoder_heads"),
    Field("encoder_ffn_dim", "encoder_mlp_width"),
    Field("decoder_ffn_dim", "decoder_mlp_width"),
    Field("max_position_embeddings", "context_length"),
    Field("decoder_start_token_id", "decoder_start_id"),
    Field("activation_function", "activation", "gelu", ACTIVATIONS),
    Field("dropout", "dropout", 0.1),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("activation_dropout", "mlp_dropout", 0.0),
    Field("scale_embedding", "scale_embeddings", False),
)

PINNED = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "tie_word_embeddings": True}

HARMLESS = ("init_std", "classif_dropout", "extra_pos_embeddings")

INERT = {
    # Transformers' first versions had these, when one class was BART, mBART, Marian and Blenderbot.
    "add_bias_logits": (False,),
    "add_final_layer_norm": (False,),
    "normalize_before": (False,),
    "do_blenderbot_90_layernorm": (False,),
    # Transformers' other names of the sizes.
    "hidden_size": (Same("d_model"),),
    "num_attention_heads": (Same("encoder_attention_heads"),),
    "num_hidden_layers": (Same("encoder_layers"),),
}
"""Fields that Marian shares -> the values with which they change nothing."""


_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
_ENCODER_LAYER: dict[str, Part] = {
    **attention("self_attn", "attention", _PROJECTIONS),
    "self_attn_layer_norm": norm("attention_norm"),
    "fc1": dense("mlp/up"),
    "fc2": dense("mlp/down"),
    "final_layer_norm": norm("mlp_norm"),
}
_DECODER_LAYER: dict[str, Part] = {
    **_ENCODER_LAYER,
    **attention("encoder_attn", "cross_attention", _PROJECTIONS),
    "encoder_attn_layer_norm": norm("cross_attention_norm"),
}
_HEADS: dict[str, Parts] = {
    "sequence_classification": {
        "classification_head.dense": dense("head/dense"),
        "classification_head.out_proj": dense("head/out"),
    },
    "question_answering": {"qa_outputs": dense("head/out")},
}


def common_rules(prefix: str, head: str) -> tuple[tuple[Rule, ...], dict[str, str]]:
    """Returns the rules of the shared table of words and of both sides' layers, and the table's aliases."""
    words = f"{prefix}shared.weight"
    aliases = {f"{prefix}{side}.embed_tokens.weight": words for side in ("encoder", "decoder")}
    if head == "language_model":
        aliases["lm_head.weight"] = words
    return (
        *under(prefix, "backbone/", {"shared": embedding("token_embedding")}),
        *under(f"{prefix}encoder.layers.{{layer}}.", "backbone/encoder/stack/layers/", _ENCODER_LAYER),
        *under(f"{prefix}decoder.layers.{{layer}}.", "backbone/decoder/stack/layers/", _DECODER_LAYER),
    ), aliases


def _table(config: BartConfig) -> Table:
    prefix = "" if config.head == "none" else "model."
    rules, aliases = common_rules(prefix, config.head)
    embed = {"embed_positions": embedding("position_embedding"), "layernorm_embedding": norm("norm")}
    constants = {}
    if config.head == "language_model":
        # A buffer, for Marian's sake: no BART has anything in it.
        constants["final_logits_bias"] = functools.partial(np.zeros, (1, config.vocab_size), np.float32)
    rules = (
        *rules,
        *under(f"{prefix}encoder.", "backbone/encoder/embed/", embed),
        *under(f"{prefix}decoder.", "backbone/decoder/embed/", embed),
        *under("", "", _HEADS.get(config.head, {})),
    )
    versions = (r"(model\.)?(encoder|decoder)\.version",)
    return Table(rules, prefix=prefix, aliases=aliases, constants=constants, ignored=versions)


BART = Family(
    model_type="bart",
    config=BartConfig,
    fields=(*FIELDS, Field("classifier_dropout", "classifier_dropout", 0.0)),
    heads={
        "language_model": "BartForConditionalGeneration",
        "sequence_classification": "BartForSequenceClassification",
        "question_answering": "BartForQuestionAnswering",
        "none": "BartModel",
    },
    table=_table,
    pinned=PINNED,
    harmless=HARMLESS,
    inert={**INERT, "normalize_embedding": (True,), "static_position_embeddings": (False,)},
    # Transformers' LayerNorms have PyTorch's epsilon, whatever config.json says.
    fits=lambda config: config.norm_epsilon == 1e-5,
    flax=FlaxClasses(
        heads=("language_model", "sequence_classification", "question_answering", "none"),
        constants=("final_logits_bias",),
    ),
)

FAMILIES = (BART,)
