"""The verdict of `verify`: right models pass whatever the size of their numbers, and wrong ones do not."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.exhaustive import few
from tools import convert as tool
from transformer.errors import UserError
from transformer.interop import families, verify
from transformer.interop.rounding import in_float64
from transformer.models.gpt import GPTConfig

from . import parity
from .test_convert import KINDS

LLAMA = dataclasses.replace(KINDS["llama"], num_kv_heads=KINDS["llama"].num_heads)
"""A model whose queries and keys have one shape, and can be swapped."""


def family_of(kind):
    return next(family for family in families.FAMILIES if family.model_type == kind)


def loud(name, parameter):
    """Makes logits of thousands: their rounding is larger than any absolute tolerance."""
    if name == "model.norm.weight":
        parameter *= 1e3


def sharp(name, parameter):
    """Makes attention so sharp that it multiplies what its scores are rounded by."""
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        parameter *= 6


SCALES = {"as made": lambda name, parameter: None, "loud": loud, "sharp": sharp}


@pytest.fixture(params=SCALES, scope="module")
def saved(request, tmp_path_factory):
    """A folder that Transformers wrote."""
    model = parity.make_pair(family_of("llama"), LLAMA).theirs
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            SCALES[request.param](name, parameter)
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


def test_a_right_model_passes(saved):
    said = []
    worst = verify.verify(saved, num_tokens=9, report=said.append)
    assert worst < verify.TOLERANCE
    assert "largest difference" in said[-1]
    # Held to half of that, it passes as well: PyTorch's own float32 is as far from its float64.
    assert verify.verify(saved, num_tokens=9, tolerance=worst / 2, report=said.append) == worst
    assert "from float64: ours" in said[-1]


def slightly(part, layer):
    """Multiplies a matrix of one layer by 1.001."""

    def change(tree):
        [path] = [path for path in tree if path.endswith(part)]
        tree[path] = jnp.asarray(tree[path]).at[layer].multiply(1.001)

    return change


def swap(tree):
    """Takes the second layer's queries for its keys."""
    query, key = (next(path for path in tree if path.endswith(f"{part}/kernel")) for part in ("query", "key"))
    ours, theirs = jnp.asarray(tree[query]), jnp.asarray(tree[key])
    tree[query], tree[key] = ours.at[1].set(theirs[1]), theirs.at[1].set(ours[1])


WRONG = {
    "values of the first layer": (slightly("value/kernel", 0), {}),
    "queries of the last layer": (slightly("query/kernel", 1), {}),
    "mlp of the last layer": (slightly("mlp/down/kernel", 1), {}),
    "queries and keys": (swap, {}),
    "epsilon": (lambda tree: None, {"norm_epsilon": 1e-6}),
}


@pytest.mark.parametrize("saved", few(SCALES, "as made"), indirect=True, scope="module")
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_model_is_not_taken_for_rounding(wrong, saved, monkeypatch):
    change, fields = WRONG[wrong]
    imported = verify.convert.import_folder(saved)
    tree = flatten_dict(imported.params, sep="/")
    change(tree)
    architecture = dataclasses.replace(imported.architecture, **fields)
    other = dataclasses.replace(imported, params=unflatten_dict(tree, sep="/"), architecture=architecture)
    monkeypatch.setattr(verify.convert, "import_folder", lambda path, **how: other)
    with pytest.raises(UserError, match="above the tolerance of 1e-05"):
        verify.verify(saved, num_tokens=9, report=lambda line: None)


@pytest.mark.parametrize("kind", KINDS)
def test_float64_is_meant_throughout_and_is_the_same_equation(kind):
    """All outputs in float64, though models ask for float32 here and there; float32's are its roundings."""
    pair = parity.make_pair(family_of(kind), KINDS[kind])
    inputs = verify.random_inputs(pair.config, 9, pad=None, eos=None)
    named = {name: parity.tensor(array) for name, array in verify.their_inputs(inputs).items()}
    with torch.no_grad():
        narrow = pair.theirs(**named)
    wide = in_float64(pair.theirs, named)
    for name, tensor in narrow.items():
        if isinstance(tensor, torch.Tensor):
            assert wide[name].dtype == torch.float64
            # Two towers' scores are products of unit vectors, which cancel, times a scale: that is their size.
            size = pair.theirs.logit_scale.exp() if name.startswith("logits_per") else tensor.abs().max()
            error = (wide[name] - tensor).abs().max() / size
            assert 1e-8 < error < 2e-6, name


def test_what_transformers_does_not_compute_in_float64_is_said(tmp_path):
    config = dataclasses.replace(KINDS["gpt2"], divide_scores_by_layer=True)
    model = parity.make_pair(family_of("gpt2"), config, reorder_and_upcast_attn=True).theirs
    with torch.no_grad():
        for layer in model.transformer.h:
            layer.attn.c_attn.weight *= 30
    model.save_pretrained(tmp_path / "hf")
    said = []
    with pytest.raises(UserError, match="above the tolerance of 1e-12"):
        verify.verify(tmp_path / "hf", num_tokens=9, tolerance=1e-12, report=said.append)
    assert any("not compared with float64, in which Transformers fails: RuntimeError" in line for line in said)


@pytest.mark.parametrize("head", ["language_model", "sequence_classification"])
def test_ids_that_the_table_lacks_are_no_obstacle(head, tmp_path, capsys):
    """A small GPT-2's config.json keeps the ids of the published one's vocabulary, Transformers' default."""
    config = GPTConfig(vocab_size=211, context_length=19, width=30, num_layers=2, num_heads=5, head=head)
    ids = {"bos_token_id": 50256, "eos_token_id": 50256}
    parity.make_pair(family_of("gpt2"), config, **ids).theirs.save_pretrained(tmp_path / "hf")
    tool.main(["verify", str(tmp_path / "hf")])
    assert "largest difference" in capsys.readouterr().out


def test_nothing_that_is_no_number_passes():
    have, want = np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]])
    difference, _ = verify._difference(have, want, np.ones((2, 2), bool))
    assert not difference <= 1.0
