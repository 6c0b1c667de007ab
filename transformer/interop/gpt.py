"""GPT-2 in Transformers: `GPT2LMHeadModel`, whose Conv1D kernels are [inputs, outputs] and whose q, k, v are fused."""

import functools
from typing import get_args

from transformer.errors import UserError
from transformer.interop.engine import Rule, Table
from transformer.interop.family import Family, classes
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import ACTIVATIONS, Field, Same
from transformer.interop.rules import LAYERS, Part, decoder_head, dense, embedding, norm, under
from transformer.models.decoder import DecoderHead
from transformer.models.gpt import GPTConfig

_conv1d = functools.partial(dense, transposed=False)
_LAYER: dict[str, Part] = {
    "ln_1": norm("attention_norm"),
    "attn.c_attn": _conv1d("attention/query", "attention/key", "attention/value"),
    "attn.c_proj": _conv1d("attention/out", inputs=2),
    "ln_2": norm("mlp_norm"),
    "mlp.c_fc": _conv1d("mlp/up"),
    "mlp.c_proj": _conv1d("mlp/down"),
}

GPT_ALIASES = {
    "hidden_size": (Same("n_embd"),),
    "max_position_embeddings": (Same("n_positions"),),
    "num_attention_heads": (Same("n_head"),),
    "num_hidden_layers": (Same("n_layer"),),
}
"""Transformers' other names of the sizes, which it reads where config.json has them."""

GPT_FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("n_positions", "context_length"),
    Field("n_embd", "width"),
    Field("n_layer", "num_layers"),
    Field("n_head", "num_heads"),
    Field("resid_pdrop", "dropout", 0.1),
    Field("embd_pdrop", "dropout", 0.1),
    Field("attn_pdrop", "dropout", 0.1),
    Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
    Field("tie_word_embeddings", "tie_embeddings", True),
)
"""Fields of GPT and GPT-2."""

GPT_HARMLESS = (
    "n_ctx",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)
"""Fields of GPT and GPT-2 that change nothing."""


def backbone_rules(prefix: str, words: str, positions: str) -> tuple[Rule, ...]:
    """Returns the rules of the tables and layers. GPT names layers alike: ln_1 is attention's norm, after or before."""
    tables = {words: embedding("token_embedding"), positions: embedding("position_embedding")}
    return (*under(prefix, "backbone/", tables), *under(f"{prefix}h.{{layer}}.", LAYERS, _LAYER))


def _table(config: GPTConfig) -> Table:
    if config.band is not None:
        raise UserError(f"band is {config.band}: Transformers' GPT-2 has no banded attention")
    prefix = "" if config.head == "none" else "transformer."
    head, aliases = decoder_head(
        config.head, tied=config.tie_embeddings, words=f"{prefix}wte.weight", token_classifier="classifier"
    )
    rules = (
        *backbone_rules(prefix, "wte", "wpe"),
        *under(prefix, "backbone/", {"ln_f": norm("final_norm")}),
        *head,
    )
    # Old checkpoints hold the causal mask as a buffer.
    buffers = (r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",)
    return Table(rules, prefix=prefix, aliases=aliases, ignored=buffers)


def _not_in_flax(config: GPTConfig) -> str:
    if config.divide_scores_by_layer or not config.scale_scores:
        return "divides all scores by the square root of the head width alone"
    return ""


GPT2 = Family(
    model_type="gpt2",
    config=GPTConfig,
    fields=(
        *GPT_FIELDS,
        Field("n_inner", "mlp_width", None),
        Field("activation_function", "activation", "gelu_new", ACTIVATIONS),
        Field("scale_attn_weights", "scale_scores", True),
        Field("scale_attn_by_inverse_layer_idx", "divide_scores_by_layer", False),
    ),
    heads=classes("GPT2", get_args(DecoderHead), language_model="GPT2LMHeadModel"),
    table=_table,
    pinned={"add_cross_attention": False},
    inert=GPT_ALIASES,
    harmless=(
        *GPT_HARMLESS,
        # Whether half-precision scores are computed in float32, with the keys scaled first. Here scores always are
        # float32, in every dtype: the equation is the same.
        "reorder_and_upcast_attn",
    ),
    fits=lambda config: config.band is None,
    flax=FlaxClasses(heads=("language_model", "none"), refusal=_not_in_flax),
)

FAMILIES = (GPT2,)
