"""GPT-2 against Transformers' on random weights, in odd shapes, and there and back."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
import transformers

from transformer.errors import UserError
from transformer.interop import gpt2
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.ops.cross_entropy import cross_entropy

SHAPES = {
    "tied": GPTConfig(vocab_size=61, context_length=19, width=30, num_layers=3, num_heads=5),
    "untied, narrow mlp": GPTConfig(
        vocab_size=33, context_length=40, width=14, num_layers=1, num_heads=7, mlp_width=9, tie_embeddings=False
    ),
    "one head, relu": GPTConfig(
        vocab_size=101, context_length=80, width=17, num_layers=2, num_heads=1, activation="relu", norm_epsilon=1e-2
    ),
    "exact gelu": GPTConfig(vocab_size=7, context_length=9, width=24, num_layers=4, num_heads=2, activation="gelu"),
}


@pytest.fixture(params=SHAPES, scope="module")
def pair(request):
    """A config, Transformers' model with random weights, and our parameters from it."""
    config = SHAPES[request.param]
    hf_config = transformers.GPT2Config(**gpt2.to_hf_config(config), bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(hf_config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0, 0.2)
    tensors = {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
    return config, model, tensors, gpt2.from_hf(tensors, config)


def _batch(config, side):
    """Two rows, one with padding: tokens, positions, segment ids."""
    rng = np.random.default_rng(0)
    length = config.context_length - 2
    tokens = rng.integers(0, config.vocab_size, (2, length)).astype(np.int32)
    segments = np.ones((2, length), np.int32)
    if side == "left":
        segments[1, :4] = 0
    if side == "right":
        segments[1, -4:] = 0
    positions = np.maximum(np.cumsum(segments, axis=1, dtype=np.int32) - 1, 0)
    return {"tokens": tokens, "positions": positions, "segment_ids": segments}


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_logits_are_transformers(pair, side):
    config, model, _, params = pair
    batch = _batch(config, side)
    have = jax.jit(config.build(Execution()).apply)({"params": params}, **batch).logits
    with torch.no_grad():
        want = model(
            torch.tensor(batch["tokens"]).long(),
            attention_mask=torch.tensor(batch["segment_ids"]).long(),
            position_ids=torch.tensor(batch["positions"]).long(),
        ).logits.numpy()
    real = batch["segment_ids"] > 0
    assert np.abs(np.asarray(have) - want)[real].max() < 1e-5


def test_gradients_are_transformers(pair):
    """Of the mean loss over real tokens, with dropout off; compared by Transformers' names."""
    config, model, _, params = pair
    batch = _batch(config, "right")
    targets, weights = np.roll(batch["tokens"], -1, axis=1), (batch["segment_ids"] > 0).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        out = config.build(Execution()).apply({"params": params}, **batch)
        total, weight, _ = cross_entropy(out.hidden_BTD, out.unembedding_VD, targets, weights, chunk=5)
        return total / weight

    have_loss, gradients = loss(params)
    model.zero_grad()
    logits = model(
        torch.tensor(batch["tokens"]).long(), attention_mask=torch.tensor(batch["segment_ids"]).long()
    ).logits  # fmt: skip
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(targets).long().flatten(), reduction="none"
    )
    want_loss = (nll * torch.tensor(weights).flatten()).sum() / weights.sum()
    want_loss.backward()
    np.testing.assert_allclose(have_loss, want_loss.item(), rtol=1e-6)
    have = gpt2.to_hf(gradients, config)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(have[name], parameter.grad, atol=1e-5, err_msg=name)


def test_there_and_back_is_exact(pair):
    config, model, tensors, params = pair
    back = gpt2.to_hf(params, config)
    skipped = {"lm_head.weight"} if config.tie_embeddings else set()
    assert set(back) == set(tensors) - skipped
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)
    report = model.load_state_dict({name: torch.tensor(tensor) for name, tensor in back.items()}, strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) == skipped
    jax.tree.map(np.testing.assert_array_equal, gpt2.from_hf(back, config), params)


def test_config_there_and_back(pair):
    config, model, _, _ = pair
    assert gpt2.from_hf_config(model.config.to_dict()) == config
    assert gpt2.from_hf_config(gpt2.to_hf_config(config)) == config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx = True is not supported"),
        ("activation_function", "mish", "activation_function = 'mish' is not supported"),
        ("attn_pdrop", 0.2, "dropouts that differ"),
        ("model_type", "llama", "model_type is 'llama'"),
        ("rope_theta", 1e4, "unknown fields, which may change the model: rope_theta"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        gpt2.from_hf_config(gpt2.to_hf_config(GPTConfig()) | {field: value})


def test_a_config_that_lacks_a_size_is_refused():
    config = gpt2.to_hf_config(GPTConfig())
    del config["n_embd"]
    with pytest.raises(UserError, match="missing n_embd"):
        gpt2.from_hf_config(config)


@pytest.fixture(scope="module")
def small():
    """A config and matching tensors, without Transformers."""
    config = SHAPES["tied"]
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(config.abstract_params())
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return config, gpt2.to_hf(params, config)


def test_missing_and_unexpected_names_are_refused(small):
    config, tensors = small
    tensors = {name: tensor for name, tensor in tensors.items() if name != "transformer.h.1.ln_1.bias"}
    tensors["transformer.h.3.ln_1.bias"] = np.zeros(30, np.float32)
    message = r"missing 'transformer\.h\.1\.ln_1\.bias'; unexpected 'transformer\.h\.3\.ln_1\.bias'"
    with pytest.raises(UserError, match=message):
        gpt2.from_hf(tensors, config)


def test_a_wrong_shape_is_refused_even_of_the_right_size(small):
    config, tensors = small
    name = "transformer.h.0.attn.c_attn.weight"
    with pytest.raises(UserError, match=r"c_attn\.weight' has shape \(90, 30\); the architecture needs \(30, 90\)"):
        gpt2.from_hf({**tensors, name: tensors[name].T}, config)


def test_a_tied_head_must_be_the_embedding(small):
    config, tensors = small
    embedding = tensors["transformer.wte.weight"]
    gpt2.from_hf({**tensors, "lm_head.weight": embedding}, config)
    with pytest.raises(UserError, match=r"'lm_head\.weight' differs from 'transformer\.wte\.weight'"):
        gpt2.from_hf({**tensors, "lm_head.weight": embedding + 1}, config)


def test_a_bare_backbone_and_old_buffers_are_read(small):
    config, tensors = small
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare["h.0.attn.bias"] = np.tril(np.ones((1, 1, 19, 19), np.float32))
    jax.tree.map(np.testing.assert_array_equal, gpt2.from_hf(bare, config), gpt2.from_hf(tensors, config))


def test_half_precision_is_read_into_float32(small):
    config, tensors = small
    params = gpt2.from_hf({name: tensor.astype(np.float16) for name, tensor in tensors.items()}, config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_an_untied_head_is_needed_where_the_architecture_has_one(small):
    config, tensors = small
    with pytest.raises(UserError, match=r"missing 'lm_head\.weight'"):
        gpt2.from_hf(tensors, dataclasses.replace(config, tie_embeddings=False))
