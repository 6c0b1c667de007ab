"""Banded attention against Transformers' GPT-Neo: GPT-3's block with unscaled scores, and no biases of q, k and v."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
import transformers

from transformer.interop.gpt import GPT2
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig

from . import decoders, parity

CONFIG = GPTConfig(vocab_size=61, context_length=160, width=24, num_layers=4, num_heads=3, band=40)


@pytest.fixture(scope="module")
def theirs():
    config = transformers.GPTNeoConfig(
        vocab_size=CONFIG.vocab_size,
        max_position_embeddings=CONFIG.context_length,
        hidden_size=CONFIG.width,
        num_layers=CONFIG.num_layers,
        num_heads=CONFIG.num_heads,
        attention_types=[[["global", "local"], CONFIG.num_layers // 2]],
        window_size=CONFIG.band,
        attn_implementation="eager",
    )
    model = transformers.GPTNeoForCausalLM(config).eval()
    parity.randomise(model)
    return model


@pytest.fixture(scope="module")
def params(theirs):
    """Our parameters, from theirs by way of GPT-2's names."""
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        linear = "mlp." in name or "out_proj" in name  # [outputs, inputs], where GPT-2's are [inputs, outputs]
        tensors[name.replace("attn.attention.out_proj", "attn.c_proj")] = tensor.numpy().T if linear else tensor.numpy()
    for layer in range(CONFIG.num_layers):
        q, k, v = (tensors.pop(f"transformer.h.{layer}.attn.attention.{name}_proj.weight").T for name in "qkv")
        q = q * np.float32(CONFIG.head_width**0.5)  # our scores are scaled, theirs are not
        tensors[f"transformer.h.{layer}.attn.c_attn.weight"] = np.concatenate([q, k, v], axis=1)
        tensors[f"transformer.h.{layer}.attn.c_attn.bias"] = np.zeros(3 * CONFIG.width, np.float32)
    params = GPT2.from_hf(tensors, dataclasses.replace(CONFIG, band=None))
    layers = params["backbone"]["stack"]["layers"]
    params["backbone"]["stack"]["layers"] = {
        "dense": jax.tree.map(lambda leaf: leaf[0::2], layers),
        "banded": jax.tree.map(lambda leaf: leaf[1::2], layers),
    }
    return params


@pytest.mark.parametrize("attention", ["xla", "reference"])
def test_banded_scores_are_gpt_neos(attention, theirs, params):
    """150 tokens are three blocks of the `xla` attention, of which the last skips keys."""
    batch = decoders.rows(CONFIG, 150)
    apply = jax.jit(CONFIG.build(Execution(attention=attention)).apply)
    with torch.no_grad():
        want = decoders.their_scores(theirs, batch)
    parity.assert_near(apply({"params": params}, **batch).logits, want, batch["segment_ids"] > 0)
