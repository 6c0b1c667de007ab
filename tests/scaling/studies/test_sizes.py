"""Sizes of a study: next to the numbers that were asked for, rising, and around what a budget is best spent on."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import configs
from tests.exhaustive import few
from transformer.errors import UserError
from transformer.models.architecture import Architecture
from transformer.models.conventions import flops_per_token, num_params
from transformer.models.gpt import GPTConfig
from transformer.models.marian import MarianConfig
from transformer.models.resizing import Shaping
from transformer.scaling.studies.sizes import TOKENS_PER_PARAM, around, ladder, sized

GPT = configs.get("gpt-scaling").model
BASES: dict[str, Architecture] = {
    "gpt": GPT,
    "gpt-banded": configs.get("gpt3-small").model,
    "bert": configs.get("bert-scaling").model,
    "t5": configs.get("t5-11b").model,
    "marian": MarianConfig(num_decoder_layers=2),
}


@pytest.mark.exhaustive
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
    model, base = found.architecture, BASES[name]
    assert 1 / 2 <= model.width / model.depth / (base.width / base.depth) <= 2 or model.depth <= 2


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


@pytest.mark.parametrize("name", few(["gpt", "bert", "t5"], "gpt"))
def test_sizes_of_one_depth_differ_in_width_alone(name):
    deepest = BASES[name].depth
    found = ladder(BASES[name], [3e5, 1e6, 3e6, 1e7], "non-embedding", Shaping(layers=deepest // 2, multiple=8))
    assert {size.architecture.depth for size in found} == {deepest // 2}
    widths = [size.architecture.width for size in found]
    assert widths == sorted(set(widths))


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="a budget of 1 FLOPs is best spent on no gpt of these shapes, which want"):
        around(GPT, 1.0, 3, length=128)
    with pytest.raises(UserError, match="no width of gpt fits"):
        sized(GPT, 1e6, shaping=Shaping(multiple=2**20))
    with pytest.raises(UserError, match="a model of 0 parameters"):
        sized(GPT, 0)
