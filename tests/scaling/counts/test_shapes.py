"""Sizes: published models come out of each other, every shape can be built and laid out on a mesh, ladders rise."""

import dataclasses
import itertools

import hypothesis.strategies as st
import jax
import pytest
from hypothesis import assume, given, settings

import configs
from transformer.errors import UserError
from transformer.models import FAMILIES
from transformer.models.architecture import Architecture
from transformer.models.conventions import flops_per_token, num_params
from transformer.models.distilbert import DistilBertConfig
from transformer.models.gpt import GPTConfig
from transformer.models.gpt1 import GPT1Config
from transformer.models.llama import LlamaConfig
from transformer.models.marian import MarianConfig
from transformer.models.roberta import RobertaConfig
from transformer.models.spanbert import SpanBertConfig
from transformer.models.transformer import TransformerConfig
from transformer.scaling.counts.shapes import Shaping, proportions, shaped
from transformer.scaling.counts.sizes import TOKENS_PER_PARAM, around, ladder, sized
from transformer.sharding import param_names, resolve

GPT = configs.get("gpt-scaling").model
BASES: dict[str, Architecture] = {
    "gpt": GPT,
    "gpt-banded": configs.get("gpt3-small").model,
    "bert": configs.get("bert-scaling").model,
    "llama": configs.get("llama3-8b").model,
    "t5": configs.get("t5-11b").model,
    "albert": configs.get("albert-base").model,
    "bart": configs.get("bart-base").model,
    "marian": MarianConfig(num_decoder_layers=2),
    "gpt1": GPT1Config(),
    "roberta": RobertaConfig(),
    "distilbert": DistilBertConfig(),
    "spanbert": SpanBertConfig(),
    "transformer": TransformerConfig(),
}


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("gpt2-small", "gpt2-medium"),
        ("gpt3-6-7b", "gpt3-13b"),
        ("gpt3-6-7b", "gpt3-175b"),
        ("bert-base", "bert-large"),
        ("t5-small", "t5-base"),
        ("t5-base", "t5-large"),
        ("llama-7b", "llama-65b"),
    ],
)
def test_published_models_come_out_of_each_other(small, large):
    base, want = configs.get(small).model, configs.get(large).model
    width, depth = proportions(want)
    assert shaped(base, width, Shaping(multiple=256 if "llama" in small else None), depth) == want


@pytest.mark.parametrize("name", BASES)
def test_a_model_of_these_proportions_is_its_own_shape(name):
    width, depth = proportions(BASES[name])
    again = shaped(BASES[name], width)
    assert proportions(again) == (width, depth)
    assert num_params(again) == pytest.approx(num_params(BASES[name]), rel=2e-3)


def test_every_family_has_shapes():
    assert {base.family for base in BASES.values()} == set(FAMILIES)


@settings(max_examples=20)
@given(st.sampled_from(sorted(BASES)), st.integers(1, 40), st.none() | st.integers(1, 9), st.sampled_from([1, 2, 4]))
def test_shapes_can_be_laid_out_on_a_mesh(name, steps, depth, tensor):
    """Every parameter is split by the mesh's axes without a rest; words are what the preset has, padded to 4."""
    base = dataclasses.replace(BASES[name], vocab_size=512, **({"decoder_start_id": 0} if name == "marian" else {}))
    try:
        architecture = shaped(base, 16 * steps, Shaping(tensor=tensor), depth)
    except UserError as error:
        assume("take" not in str(error))  # no such width: another is named
        raise
    width, layers = proportions(architecture)
    assert width == 16 * steps
    assert depth is None or layers == depth or (layers == depth + 1 and name == "gpt-banded")
    boxed = architecture.abstract_params()
    is_names = lambda node: isinstance(node, tuple)  # noqa: E731
    for leaf, names in zip(jax.tree.leaves(boxed), jax.tree.leaves(param_names(boxed), is_leaf=is_names), strict=True):
        resolve(names, leaf.shape, {"fsdp": 2, "tensor": tensor}, what=name)


@settings(max_examples=12)
@given(
    st.sampled_from(["gpt", "gpt-banded", "marian"]),
    st.sampled_from([4.3, 5.1, 5.9, 6.7]),
    st.sampled_from([True, False]),
)
def test_a_size_is_what_was_asked_for_or_says_so(name, log_params, non_embedding):
    size = "non-embedding" if non_embedding else "total"
    found = sized(BASES[name], 10**log_params, size)
    assert found.params == num_params(found.architecture, size)
    away = abs(found.params / 10**log_params - 1)
    assert (away <= Shaping().tolerance) == (found.note is None)
    width, depth = proportions(found.architecture)
    base_width, base_depth = proportions(BASES[name])
    assert 1 / 2 <= width / depth / (base_width / base_depth) <= 2 or depth <= 2


def test_feed_forward_widths_are_rounded():
    narrow, split = (shaped(BASES["llama"], 144, Shaping(tensor=tensor)) for tensor in (1, 3))
    assert isinstance(narrow, LlamaConfig)
    assert isinstance(split, LlamaConfig)
    assert (narrow.mlp_width, split.mlp_width) == (512, 480)  # of 3.5 * 144 = 504; multiples of 16, and of 48


def test_small_sizes_of_a_study_lie_close():
    """From 20 thousand to 5 million parameters of the blocks: one head width, none off by more than a third."""
    found = ladder(GPT, [2e4 * 250 ** (step / 9) for step in range(10)], "non-embedding")
    assert all(before.params < after.params for before, after in itertools.pairwise(found))
    for step, (architecture, params, note) in enumerate(found):
        assert isinstance(architecture, GPTConfig)
        assert architecture.head_width == 16
        assert params / (2e4 * 250 ** (step / 9)) == pytest.approx(1, abs=1 / 3)
        assert note is None or params < 2e5


def test_crowded_sizes_still_rise():
    found = ladder(GPT, [30e3, 30.1e3, 30.2e3], "non-embedding")
    assert found[0].params < found[1].params < found[2].params
    assert found[2].note is not None
    assert "of the 30,200 asked for: no well-shaped gpt is nearer" in found[2].note


def test_sizes_lie_around_what_a_budget_is_best_spent_on():
    middles = []
    for flops in (1e14, 1e15):
        found = around(GPT, flops, 5, length=128)
        assert [size.params for size in found] == sorted({size.params for size in found})
        assert found[-1].params / found[0].params == pytest.approx(16, rel=0.1)
        _, _, (architecture, params, _), _, _ = found
        cost = flops_per_token("exact", architecture, 128) * TOKENS_PER_PARAM * params
        assert cost == pytest.approx(flops, rel=0.15)
        middles.append(params)
    assert 2.5 < middles[1] / middles[0] < 4  # N* ~ C^0.5, a little more while the head's share falls


@pytest.mark.parametrize("name", ["gpt", "bert", "t5"])
def test_sizes_of_one_depth_differ_in_width_alone(name):
    deepest = proportions(BASES[name])[1]
    found = ladder(BASES[name], [3e5, 1e6, 3e6, 1e7], "non-embedding", Shaping(layers=deepest // 2, multiple=8))
    assert {proportions(size.architecture)[1] for size in found} == {deepest // 2}
    widths = [proportions(size.architecture)[0] for size in found]
    assert widths == sorted(set(widths))


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="give aspect, by which layers grow with the width, or layers, which do not"):
        Shaping(aspect=64, layers=2)
    with pytest.raises(UserError, match="a width of 100 is no multiple of 16: take 96 or 112"):
        shaped(GPT, 100)
    with pytest.raises(
        UserError, match="a width of 144 is not heads of 16, in a number that 4 divides: take 128 or 192"
    ):
        shaped(GPT, 144, Shaping(tensor=4))
    with pytest.raises(UserError, match="tensor is 0: it must be at least 1"):
        Shaping(tensor=0)
    with pytest.raises(UserError, match=r"head_widths are \(3,\): give even ones"):
        Shaping(head_widths=(3,))
    with pytest.raises(UserError, match="a budget of 1 FLOPs is best spent on no gpt of these shapes, which want"):
        around(GPT, 1.0, 3, length=128)
    with pytest.raises(UserError, match="no width of gpt fits"):
        sized(GPT, 1e6, shaping=Shaping(multiple=2**20))
    with pytest.raises(UserError, match="a model of 0 parameters"):
        sized(GPT, 0)
