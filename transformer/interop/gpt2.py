"""GPT-2 in Transformers: `GPT2LMHeadModel`, whose Conv1D kernels are [inputs, outputs] and whose q, k, v are fused."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer.errors import UserError
from transformer.interop import engine, hf_config
from transformer.interop.engine import Rule, Table
from transformer.interop.transforms import FLAT, fused, kernel
from transformer.models.gpt import GPTConfig

_LAYER = "backbone/stack/layers"
_HF_LAYER = "transformer.h.{layer}"
_MATRIX = kernel(transposed=False)
_QKV = tuple(f"{_LAYER}/attention/{name}" for name in ("query", "key", "value"))

_BACKBONE = (
    Rule("transformer.wte.weight", ("backbone/token_embedding/embedding",)),
    Rule("transformer.wpe.weight", ("backbone/position_embedding/embedding",)),
    Rule(f"{_HF_LAYER}.ln_1.weight", (f"{_LAYER}/attention_norm/scale",)),
    Rule(f"{_HF_LAYER}.ln_1.bias", (f"{_LAYER}/attention_norm/bias",)),
    Rule(f"{_HF_LAYER}.attn.c_attn.weight", tuple(f"{path}/kernel" for path in _QKV), fused(_MATRIX)),
    Rule(f"{_HF_LAYER}.attn.c_attn.bias", tuple(f"{path}/bias" for path in _QKV), fused(FLAT)),
    Rule(f"{_HF_LAYER}.attn.c_proj.weight", (f"{_LAYER}/attention/out/kernel",), kernel(2, transposed=False)),
    Rule(f"{_HF_LAYER}.attn.c_proj.bias", (f"{_LAYER}/attention/out/bias",)),
    Rule(f"{_HF_LAYER}.ln_2.weight", (f"{_LAYER}/mlp_norm/scale",)),
    Rule(f"{_HF_LAYER}.ln_2.bias", (f"{_LAYER}/mlp_norm/bias",)),
    Rule(f"{_HF_LAYER}.mlp.c_fc.weight", (f"{_LAYER}/mlp/up/kernel",), _MATRIX),
    Rule(f"{_HF_LAYER}.mlp.c_fc.bias", (f"{_LAYER}/mlp/up/bias",)),
    Rule(f"{_HF_LAYER}.mlp.c_proj.weight", (f"{_LAYER}/mlp/down/kernel",), _MATRIX),
    Rule(f"{_HF_LAYER}.mlp.c_proj.bias", (f"{_LAYER}/mlp/down/bias",)),
    Rule("transformer.ln_f.weight", ("backbone/final_norm/scale",)),
    Rule("transformer.ln_f.bias", ("backbone/final_norm/bias",)),
)

# Old checkpoints hold the causal mask as a buffer.
_BUFFERS = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",)

# Theirs -> ours; the first of several names is the one written.
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# Field -> Transformers' default, where old configs leave it out.
_MAPPED = {
    "vocab_size": ...,
    "n_positions": ...,
    "n_embd": ...,
    "n_layer": ...,
    "n_head": ...,
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
_PINNED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
_HARMLESS = (
    "n_ctx",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)


def from_hf_config(config: Mapping[str, Any]) -> GPTConfig:
    """Returns the architecture that a config.json describes.

    Raises:
      UserError: a field that would change the numbers and is not supported, by name.
    """
    values = hf_config.read(config, model_type="gpt2", mapped=_MAPPED, pinned=_PINNED, harmless=_HARMLESS)
    dropouts = {field: values[field] for field in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    if len(set(dropouts.values())) > 1:
        raise UserError(f"config.json: dropouts that differ are not supported: {dropouts}")
    activation = values["activation_function"]
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"config.json: activation_function = {activation!r} is not supported, only {', '.join(_ACTIVATIONS)}"
        )
    return GPTConfig(
        vocab_size=values["vocab_size"],
        context_length=values["n_positions"],
        width=values["n_embd"],
        num_layers=values["n_layer"],
        num_heads=values["n_head"],
        mlp_width=values["n_inner"],
        dropout=values["resid_pdrop"],
        norm_epsilon=values["layer_norm_epsilon"],
        activation=_ACTIVATIONS[activation],
        tie_embeddings=values["tie_word_embeddings"],
    )


def to_hf_config(config: GPTConfig) -> dict[str, Any]:
    """Returns the config.json of an architecture."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.width,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.mlp_width,
        "activation_function": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == config.activation),
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tie_embeddings,
    }


def table(config: GPTConfig) -> Table:
    """Returns the names of an architecture's weights."""
    if config.tie_embeddings:
        aliases = {"lm_head.weight": "transformer.wte.weight"}
        return Table(_BACKBONE, prefix="transformer.", aliases=aliases, ignored=_BUFFERS)
    return Table((*_BACKBONE, Rule("lm_head.weight", ("head/kernel",))), prefix="transformer.", ignored=_BUFFERS)


def from_hf(tensors: Mapping[str, np.ndarray], config: GPTConfig) -> Any:
    """Returns our parameters (numpy, float32) from Transformers' tensors; strict, as `engine.load`."""
    return engine.load(table(config), tensors, config.abstract_params())


def to_hf(params: Any, config: GPTConfig) -> dict[str, np.ndarray]:
    """Returns Transformers' tensors from our parameters; a tied head is not written twice."""
    return engine.save(table(config), params)
