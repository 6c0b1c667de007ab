"""GPT-2 against Transformers' on random weights, in odd shapes, and there and back."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch

from tests.exhaustive import few
from tools import convert as tool
from transformer.errors import UserError
from transformer.interop.gpt import GPT2
from transformer.models.gpt import GPTConfig
from transformer.ops.cross_entropy import cross_entropy

from . import decoders, parity

SHAPES = {
    "tied": GPTConfig(vocab_size=61, context_length=19, width=30, num_layers=3, num_heads=5),
    "untied, narrow mlp": GPTConfig(
        vocab_size=33, context_length=40, width=14, num_layers=1, num_heads=7, mlp_width=9, tie_embeddings=False
    ),
    "one head, relu": GPTConfig(
        vocab_size=101, context_length=80, width=17, num_layers=2, num_heads=1, activation="relu", norm_epsilon=1e-2
    ),
    "exact gelu": GPTConfig(vocab_size=7, context_length=9, width=24, num_layers=4, num_heads=2, activation="gelu"),
    "scores by layer": GPTConfig(
        vocab_size=29, context_length=21, width=24, num_layers=5, num_heads=3, divide_scores_by_layer=True
    ),
    "scores unscaled, by layer": GPTConfig(
        vocab_size=29, context_length=21, width=12, num_layers=3, num_heads=2, scale_scores=False,
        divide_scores_by_layer=True,
    ),
    "scores unscaled": GPTConfig(
        vocab_size=29, context_length=21, width=12, num_layers=2, num_heads=2, scale_scores=False
    ),
}  # fmt: skip


FEW = ("tied", "untied, narrow mlp", "one head, relu", "scores unscaled, by layer")


@pytest.fixture(params=few(SHAPES, *FEW), scope="module")
def pair(request):
    return parity.make_pair(GPT2, SHAPES[request.param])


def _their_logits(model, batch):
    return model(
        parity.tensor(batch["tokens"]),
        attention_mask=parity.tensor(batch["segment_ids"]),
        position_ids=parity.tensor(batch["positions"]),
    ).logits


def test_logits_are_transformers(pair):
    batch = parity.rows(pair.config, pair.config.context_length - 2)
    parity.assert_near(pair.apply(batch).logits, _their_logits(pair.theirs, batch), batch["segment_ids"] > 0)


@pytest.mark.parametrize("shape", ["tied", "scores unscaled, by layer"])
def test_gradients_are_transformers(shape):
    """Gradients of the mean loss over real tokens, with dropout off."""
    pair = parity.make_pair(GPT2, SHAPES[shape])
    batch = parity.rows(pair.config, 17)
    targets, weights = np.roll(batch["tokens"], -1, axis=1), (batch["segment_ids"] > 0).astype(np.float32)

    def loss(out):
        total, weight, _ = cross_entropy(out.hidden_BTD, out.unembedding_VD, targets, weights, chunk=5)
        return total / weight

    def their_loss(model):
        nll = torch.nn.functional.cross_entropy(
            _their_logits(model, batch).flatten(0, 1), parity.tensor(targets).flatten(), reduction="none"
        )
        return (nll * torch.tensor(weights).flatten()).sum() / weights.sum()

    parity.assert_gradients(pair, batch, loss, their_loss)


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    batch = parity.rows(pair.config, 7)
    parity.assert_reloads(pair, tmp_path / "out", lambda model: _their_logits(model, batch))


def test_a_stanford_folder_is_transformers(tmp_path):
    """Both settings of Stanford CRFM's GPT-2s: the numbers of Transformers' own path for them, and back."""
    fields = {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}
    pair = parity.make_pair(GPT2, SHAPES["scores by layer"], **fields)
    batch = parity.rows(pair.config, 19)
    parity.assert_near(pair.apply(batch).logits, _their_logits(pair.theirs, batch), batch["segment_ids"] > 0)
    pair.theirs.save_pretrained(tmp_path / "hf")
    tool.main(["verify", str(tmp_path / "hf")])
    tool.main(["import", str(tmp_path / "hf"), str(tmp_path / "run")])
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert fields.items() <= json.loads((tmp_path / "out" / "config.json").read_text()).items()
    again = type(pair.theirs).from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(_their_logits(again, batch), _their_logits(pair.theirs, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", ["sequence_classification", "token_classification", "question_answering", "none"])
def test_every_head_is_transformers(head, tmp_path):
    config = dataclasses.replace(SHAPES["untied, narrow mlp"], head=head)
    pair = decoders.make_pair(GPT2, config)
    decoders.assert_scores(pair, 19)
    parity.assert_there_and_back(pair)
    decoders.assert_reloads(pair, tmp_path / "out")


def test_banded_attention_is_refused_by_name():
    config = dataclasses.replace(SHAPES["exact gelu"], band=3)
    assert not GPT2.fits(config)
    with pytest.raises(UserError, match="band is 3: Transformers' GPT-2 has no banded attention"):
        dict(GPT2.stream({}, config))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("add_cross_attention", True, "add_cross_attention = True is not supported"),
        ("activation_function", "mish", "activation_function = 'mish' is not supported"),
        ("attn_pdrop", 0.2, "resid_pdrop, embd_pdrop, attn_pdrop that differ"),
        ("model_type", "llama", "model_type is 'llama'"),
        ("rope_theta", 1e4, "unknown fields, which may change the model: rope_theta"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        GPT2.read_config(GPT2.write_config(GPTConfig()) | {field: value}, "language_model")


def test_a_config_that_lacks_a_size_is_refused():
    config = GPT2.write_config(GPTConfig())
    del config["n_embd"]
    with pytest.raises(UserError, match="missing n_embd"):
        GPT2.read_config(config, "language_model")


@pytest.fixture(scope="module")
def small():
    """A config and matching tensors, without Transformers."""
    config = SHAPES["tied"]
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(config.abstract_params())
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return config, dict(GPT2.stream(params, config))


def test_missing_and_unexpected_names_are_refused(small):
    config, tensors = small
    tensors = {name: tensor for name, tensor in tensors.items() if name != "transformer.h.1.ln_1.bias"}
    tensors["transformer.h.3.ln_1.bias"] = np.zeros(30, np.float32)
    message = r"missing 'transformer\.h\.1\.ln_1\.bias'; unexpected 'transformer\.h\.3\.ln_1\.bias'"
    with pytest.raises(UserError, match=message):
        GPT2.from_hf(tensors, config)


def test_a_wrong_shape_is_refused_even_of_the_right_size(small):
    config, tensors = small
    name = "transformer.h.0.attn.c_attn.weight"
    with pytest.raises(UserError, match=r"c_attn\.weight' has shape \(90, 30\); the architecture needs \(30, 90\)"):
        GPT2.from_hf({**tensors, name: tensors[name].T}, config)


def test_a_tied_head_must_be_the_embedding(small):
    config, tensors = small
    embedding = tensors["transformer.wte.weight"]
    GPT2.from_hf({**tensors, "lm_head.weight": embedding}, config)
    with pytest.raises(UserError, match=r"'lm_head\.weight' differs from 'transformer\.wte\.weight'"):
        GPT2.from_hf({**tensors, "lm_head.weight": embedding + 1}, config)


def test_a_bare_backbone_and_old_buffers_are_read(small):
    config, tensors = small
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare["h.0.attn.bias"] = np.tril(np.ones((1, 1, 19, 19), np.float32))
    jax.tree.map(np.testing.assert_array_equal, GPT2.from_hf(bare, config), GPT2.from_hf(tensors, config))


def test_half_precision_is_read_into_float32(small):
    config, tensors = small
    params = GPT2.from_hf({name: tensor.astype(np.float16) for name, tensor in tensors.items()}, config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_an_untied_head_is_needed_where_the_architecture_has_one(small):
    config, tensors = small
    with pytest.raises(UserError, match=r"missing 'lm_head\.weight'"):
        GPT2.from_hf(tensors, dataclasses.replace(config, tie_embeddings=False))
