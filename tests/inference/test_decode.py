"""Decoding equals itself without a cache, ends where it should, and draws from the model's distribution.

That it equals Transformers' `generate`, for every family that generates, is in tests/interop/test_generate.py.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from tests.inference.sharp_models import NEW, TEXTS, SharpModel
from transformer.errors import UserError
from transformer.inference import beam_search, drawing, slots
from transformer.inference.beam_search import BeamSearch
from transformer.inference.decode import continued_inputs, generate
from transformer.inference.drawing import _go_on, begin
from transformer.inference.processors import Processors
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling
from transformer.inference.unstacked import for_decoding, restack_memory, unstack_cache
from transformer.layers.cache import EncoderDecoderCache, KVCache
from transformer.layers.execution import Execution

GREEDY = Sampling(temperature=0)
PENALTY = DecodingRules(repetition_penalty=5.0)


DECODERS = ["gpt", "gpt1", "llama", "t5", "bart", "marian", "transformer"]


@pytest.fixture(params=few(DECODERS, "gpt", "t5"), scope="module")
def model(request):
    return SharpModel(request.param)


@pytest.fixture(scope="module")
def gpt():
    return SharpModel("gpt1")


def test_greedy_equals_greedy_without_a_cache(model):
    """Rows of unequal length, padded in one batch. The penalty keeps tied heads from saying one token for ever."""
    penalty = 5.0
    found = model.generate(rules=DecodingRules(repetition_penalty=penalty))
    assert len({token for [generated] in found for token in generated.tokens}) > 5
    for text, [generated] in zip(TEXTS, found, strict=True):
        assert generated.tokens == model.greedy(text, penalty)
        assert generated.score is None


def test_a_prefix_is_read_from_both_sides(gpt):
    [text], said = [TEXTS[1]], []
    prefix = jnp.asarray([[1] * len(text) + [0] * (16 - len(text))])
    for _ in range(NEW):
        row = [*text, *said]
        logits = gpt.apply(tokens=jnp.asarray([row + [0] * (16 - len(row))]), prefix=prefix)
        said.append(int(logits[0, len(row) - 1].argmax()))
    [[seen]], [[causal]] = gpt.generate([text], prefix=True), gpt.generate([text])
    assert seen.tokens == said != causal.tokens


def test_unstacked_layers_say_the_same(model):
    module, params = for_decoding(model.config, model.params, Execution())
    assert jax.tree.structure(params) != jax.tree.structure(model.params)
    rules = DecodingRules(repetition_penalty=5.0)
    said = generate(module, params, TEXTS, max_new_tokens=NEW, how=GREEDY, rules=rules)
    assert said == model.generate(rules=rules)
    found = generate(module, params, TEXTS, max_new_tokens=NEW, how=BeamSearch(beams=3))
    expected = model.generate(how=BeamSearch(beams=3))
    assert [each.tokens for [each] in found] == [each.tokens for [each] in expected]


def test_a_loop_over_tokens_updates_its_cache_in_place():
    """In the loop's body nothing but its update has the size of a layer's cache: no copy, no turned one."""
    model, rows, slots = SharpModel("gpt1"), len(TEXTS), 160
    module, params = for_decoding(model.config, model.params, Execution())
    heads, width = model.config.cache_heads
    inputs = continued_inputs(TEXTS, 16, prefix=False)
    read = {"stop_ids": (), "read": TEXTS, "prompt_lengths": [len(text) for text in TEXTS], "width": 16}
    processors = Processors.of(DecodingRules(), **read, min_new=[0] * rows, max_new=[slots - 16] * rows)
    keys_B = jax.random.split(jax.random.key(0), rows)
    begun = jax.eval_shape(
        lambda *given: begin(module, *given, slots, GREEDY, 1, ()), params, inputs, keys_B, processors
    )
    program = _go_on.lower(module, params, *begun, GREEDY, ()).compile().as_text() or ""
    names = set(re.findall(r"body=%([\w.-]+)", program))
    body = "".join(part for part in program.split("\n\n") if part.lstrip("%").split(" ", 1)[0] in names)
    made = [
        name
        for name, shape in re.findall(r"%(\S+) = f32\[([\d,]*)\]\S* (?:fusion|copy|transpose|dynamic-\S+)\(", body)
        if math.prod(map(int, filter(None, shape.split(",")))) >= rows * heads * width * slots
    ]
    assert len(made) == 2 * model.config.num_layers
    assert all("dynamic-update-slice" in name for name in made), made


def test_an_unstacked_memory_is_stacked_again_as_it_was():
    params = {"kernel": (jnp.ones(2), jnp.ones(2))}
    keys = jnp.arange(2 * 3 * 5 * 4 * 7.0).reshape(2, 3, 5, 4, 7)
    memory = keys, keys + 1
    cache = EncoderDecoderCache(KVCache.empty(2, 3, 8, 4, 7, jnp.float32), memory, jnp.ones((3, 5), jnp.int32))
    turned = unstack_cache(params, cache)
    assert [leaf.shape for leaf in jax.tree.leaves(turned.memory)] == [(3, 4, 7, 5)] * 4
    for have, want in zip(restack_memory(turned).memory, memory, strict=True):
        np.testing.assert_array_equal(have, want)
    assert unstack_cache({"kernel": jnp.ones(2)}, cache) is cache is restack_memory(cache)


def test_a_beam_of_one_is_greedy(model):
    for [greedy], [beam] in zip(model.generate(), model.generate(how=BeamSearch(beams=1)), strict=True):
        assert greedy.tokens == beam.tokens


def test_beam_search_finds_what_is_likeliest_of_all(gpt):
    """With as many beams as there are continuations of two tokens, nothing is pruned: the search is exhaustive."""
    how = BeamSearch(beams=32, length_penalty=0.0)
    [found] = gpt.generate([TEXTS[1]], how=how, num=5, max_new_tokens=2)
    rows = jnp.asarray([[*TEXTS[1], token] for token in range(32)])
    logprobs = jax.nn.log_softmax(gpt.apply(tokens=rows))
    length = len(TEXTS[1])
    sums = np.asarray(logprobs[:, length - 1][0][:, None] + logprobs[:, length])
    best = np.argsort(-sums, axis=None)[:5]
    assert [one.tokens for one in found] == [[int(token) for token in np.unravel_index(i, sums.shape)] for i in best]
    np.testing.assert_allclose([one.score for one in found], sums.ravel()[best], rtol=1e-5)


def test_a_row_ends_at_a_stop_token_and_the_others_go_on(gpt):
    whole = [generated.tokens for [generated] in gpt.generate()]
    stops = [whole[0][2], whole[1][4]]
    for full, [generated] in zip(whole, gpt.generate(stop_ids=stops), strict=True):
        assert generated.tokens == full[: min([full.index(stop) for stop in stops if stop in full], default=NEW)]


def test_drawing_repeats_with_the_seed_and_differs_without(gpt):
    how = Sampling(temperature=1.0, top_k=20, top_p=0.95)
    draws = [gpt.generate(how=how, seed=seed, num=2) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert any(first.tokens != second.tokens for first, second in draws[0])


def test_what_is_drawn_for_a_text_depends_on_its_place_and_not_on_its_batch(gpt):
    how, texts = Sampling(temperature=8.0), [TEXTS[1]] * 8
    whole = gpt.generate(texts, how=how, num=2)
    drawn = [tuple(generated.tokens) for text in whole for generated in text]
    assert len(set(drawn)) == 16
    parts = [gpt.generate(texts[:4], how=how, num=2, places=[first + n for n in range(4)]) for first in (0, 4)]
    assert parts[0] + parts[1] == whole
    assert gpt.generate(texts[:4], how=how, num=2, places=[7, 0, 3, 3]) == [whole[n] for n in (7, 0, 3, 3)]


def test_the_first_token_follows_the_models_distribution(gpt):
    [draws] = gpt.generate([TEXTS[1]], how=Sampling(temperature=1.5), num=4000, max_new_tokens=1)
    frequencies = np.bincount([draw.tokens[0] for draw in draws], minlength=32) / 4000
    logits = gpt.apply(tokens=jnp.asarray([TEXTS[1]]))[0, -1]
    np.testing.assert_allclose(frequencies, jax.nn.softmax(logits / 1.5), atol=0.03)


@pytest.mark.parametrize("how", [GREEDY, BeamSearch(beams=2)], ids=["greedy", "beams"])
def test_generation_ends_where_the_context_is_full(gpt, how):
    [[generated]] = gpt.generate([[5] * 13], max_new_tokens=100, how=how)
    assert len(generated.tokens) == 3


SEARCHES = pytest.mark.parametrize(
    ("how", "module"), [(GREEDY, drawing), (BeamSearch(beams=2), beam_search)], ids=["greedy", "beams"]
)


@SEARCHES
def test_prompts_near_the_end_of_the_context_share_programs(gpt, how, module):
    before = compiled(module)
    for length in range(8, 16):
        for asked in (9, 100):
            [[generated]] = gpt.generate([[5] * length], max_new_tokens=asked, how=how, rules=PENALTY)
            assert len(generated.tokens) == min(16 - length, asked)
    assert compiled(module) == [number + 1 for number in before]


@SEARCHES
def test_prompts_of_all_lengths_share_what_a_token_takes(how, module, monkeypatch):
    """What reads a prompt is compiled for its length; what adds a token for 64 and 128 slots, once each."""
    monkeypatch.setattr(slots, "FEWEST", 32)
    model, before = SharpModel("gpt1", context_length=256), compiled(module)
    for length in (1, 20, 40):
        [[generated]] = model.generate([[5] * length], max_new_tokens=80 - length, how=how)
        assert len(generated.tokens) == 80 - length
    assert compiled(module) == [before[0] + 2, before[1] + 2]


@SEARCHES
@pytest.mark.parametrize("name", few(["gpt1", "llama", "t5"], "llama"))
def test_a_cache_that_grows_says_the_same(name, how, module, monkeypatch):
    model = SharpModel(name, **({} if name == "t5" else {"context_length": 256}))
    unstacked, params = for_decoding(model.config, model.params, Execution())
    said = []
    for fewest in (128, 8):
        monkeypatch.setattr(slots, "FEWEST", fewest)
        before = compiled(module)[1]
        options = {"max_new_tokens": [70, 30, 50], "how": how, "rules": PENALTY, "num": 1}
        said.append(generate(unstacked, params, TEXTS, **options))
        assert fewest == 128 or compiled(module)[1] > before  # else another test may have compiled all
    assert said[0] == said[1]
    assert [len(generated.tokens) for [generated] in said[0]] == [70, 30, 50]


@SEARCHES
def test_a_cache_rolls_where_every_layer_sees_a_window(how, module, monkeypatch):
    """Its 32 slots are filled four times over, and what is said is what a cache of all tokens says."""
    model, prompts = SharpModel("llama", context_length=256), [[7] * 50, TEXTS[1]]
    inputs: Any = continued_inputs(prompts, 64, prefix=False)
    sizes = jax.eval_shape(lambda: slots.start(model.module, model.params, inputs, 128, 32)[1])
    assert (slots.rolling(model.config), sizes.positions_BS.shape) == (32, (2, 32))
    options = {"max_new_tokens": 100, "how": how, "rules": DecodingRules(no_repeat_ngram_size=2)}
    for texts in (prompts, TEXTS):  # longer than its slots, and shorter
        rolled = model.generate(texts, **options)
        with monkeypatch.context() as patch:
            patch.setattr(slots, "rolling", lambda config: None)
            kept = model.generate(texts, **options)
        for [have], [want] in zip(rolled, kept, strict=True):
            assert have.tokens == want.tokens
            assert have.score == (want.score if how is GREEDY else pytest.approx(want.score, rel=1e-5))


def test_a_cache_keeps_all_where_a_layer_sees_all():
    assert slots.rolling(SharpModel("gpt").config) is None


def compiled(module: Any) -> list[int]:
    """Returns how many programs there are so far that read prompts, and that go on."""
    return [module.begin._cache_size(), module._go_on._cache_size()]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([[1] * 16], {}, "16 tokens and the model's context holds 16"),
        ([[]], {}, "no token"),
        ([[1]], {"max_new_tokens": 0}, "at least 1"),
        ([[1]], {"num": 0}, "at least 1"),
        ([[1]], {"how": BeamSearch(beams=2), "num": 3}, "raise --beams to at least 3"),
    ],
)
def test_refuses(gpt, texts, options, message):
    with pytest.raises(UserError, match=message):
        gpt.generate(texts, **options)


@pytest.mark.parametrize("fields", [{"beams": 0}, {"early_stopping": "soon"}])
def test_refuses_an_impossible_search(fields):
    with pytest.raises(UserError, match="it must be"):
        BeamSearch(**fields)
