"""Whisper in Transformers: `WhisperForConditionalGeneration`."""

from typing import Any

import numpy as np

from transformer.interop.engine import Rule, Table
from transformer.interop.family import Family
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import ACTIVATIONS, Field, Same
from transformer.interop.rules import Part, dense, embedding, norm, under
from transformer.interop.transforms import Transform
from transformer.models.whisper import WhisperConfig

_CONVOLUTION = Transform(
    their_shape=lambda shapes: shapes[0][::-1],
    load=lambda array, shapes: [array.transpose(2, 1, 0)],
    save=lambda arrays: np.transpose(arrays[0], (2, 1, 0)),
)
"""Between a convolution of theirs, [outputs, inputs, taps], and ours, [taps, inputs, outputs]."""


def _convolution(ours: str) -> Part:
    return Rule("weight", (f"{ours}/kernel",), _CONVOLUTION), Rule("bias", (f"{ours}/bias",))


def _attention(theirs: str, ours: str) -> dict[str, Part]:
    """Returns the parts of an attention's four projections: keys have no bias."""
    return {
        f"{theirs}.q_proj": dense(f"{ours}/query"),
        f"{theirs}.k_proj": dense(f"{ours}/key", bias=False),
        f"{theirs}.v_proj": dense(f"{ours}/value"),
        f"{theirs}.out_proj": dense(f"{ours}/out", inputs=2),
    }


_ENCODER: dict[str, Part] = {
    "conv1": _convolution("stem/first"),
    "conv2": _convolution("stem/second"),
    # As stored, not as computed: published ones are sinusoids rounded to float16.
    "embed_positions": (Rule("weight", ("sinusoids",)),),
    "layer_norm": norm("final_norm"),
}
_DECODER: dict[str, Part] = {
    "embed_positions": embedding("position_embedding"),
    "layer_norm": norm("final_norm"),
}
_ENCODER_LAYER: dict[str, Part] = {
    **_attention("self_attn", "attention"),
    "self_attn_layer_norm": norm("attention_norm"),
    "fc1": dense("mlp/up"),
    "fc2": dense("mlp/down"),
    "final_layer_norm": norm("mlp_norm"),
}
_DECODER_LAYER: dict[str, Part] = {
    **_ENCODER_LAYER,
    **_attention("encoder_attn", "cross_attention"),
    "encoder_attn_layer_norm": norm("cross_attention_norm"),
}


def _table(config: WhisperConfig) -> Table:
    prefix = "" if config.head == "none" else "model."
    words = f"{prefix}decoder.embed_tokens.weight"
    rules = (
        *under(f"{prefix}decoder.", "backbone/", {"embed_tokens": embedding("token_embedding")}),
        *under(f"{prefix}encoder.", "backbone/encoder/", _ENCODER),
        *under(f"{prefix}encoder.layers.{{layer}}.", "backbone/encoder/stack/layers/", _ENCODER_LAYER),
        *under(f"{prefix}decoder.", "backbone/decoder/", _DECODER),
        *under(f"{prefix}decoder.layers.{{layer}}.", "backbone/decoder/stack/layers/", _DECODER_LAYER),
    )
    return Table(rules, prefix=prefix, aliases={"proj_out.weight": words} if config.head == "language_model" else {})


def _denormalise(config: dict[str, Any]) -> dict[str, Any]:
    # Transformers' default is that of 51,865 words, which a smaller vocabulary does not have.
    return {**config, "pad_token_id": min(50256, config["vocab_size"] - 1)}


WHISPER = Family(
    model_type="whisper",
    config=WhisperConfig,
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("num_mel_bins", "bins"),
        Field("d_model", "width"),
        Field("encoder_layers", "num_encoder_layers"),
        Field("decoder_layers", "num_decoder_layers"),
        Field("encoder_attention_heads", "num_encoder_heads"),
        Field("decoder_attention_heads", "num_decoder_heads"),
        Field("encoder_ffn_dim", "encoder_mlp_width"),
        Field("decoder_ffn_dim", "decoder_mlp_width"),
        Field("max_source_positions", "encoder_places"),
        Field("max_target_positions", "context_length"),
        Field("decoder_start_token_id", "decoder_start_id"),
        Field("activation_function", "activation", "gelu", ACTIVATIONS),
        Field("dropout", "dropout", 0.0),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("activation_dropout", "mlp_dropout", 0.0),
    ),
    heads={"language_model": "WhisperForConditionalGeneration", "none": "WhisperModel"},
    table=_table,
    pinned={"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "tie_word_embeddings": True},
    harmless=(
        "init_std",
        "median_filter_width",  # of word times
        "classifier_proj_size",  # of a classifier, which this is not
        "use_weighted_layer_sum",
        # Masks of features in training, in Transformers' classes alone.
        "apply_spec_augment",
        "mask_time_prob",
        "mask_time_length",
        "mask_time_min_masks",
        "mask_feature_prob",
        "mask_feature_length",
        "mask_feature_min_masks",
    ),
    inert={
        "scale_embedding": (False,),
        # Transformers' other names of the sizes.
        "hidden_size": (Same("d_model"),),
        "num_attention_heads": (Same("encoder_attention_heads"),),
        "num_hidden_layers": (Same("encoder_layers"),),
    },
    denormalise=_denormalise,
    # Transformers' LayerNorms have PyTorch's epsilon, whatever config.json says.
    fits=lambda config: config.norm_epsilon == 1e-5,
    flax=FlaxClasses(heads=("language_model", "none")),
)

FAMILIES = (WHISPER,)
