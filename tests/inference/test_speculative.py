"""Speculative decoding: greedy as without, drawn from the model's distribution, whatever the draft."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from scipy import stats

from tests.exhaustive import few
from tests.inference.sharp_models import TEXTS, SharpModel
from transformer.errors import UserError
from transformer.inference import slots
from transformer.inference.beam_search import BeamSearch
from transformer.inference.restored import Restored
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling
from transformer.inference.speculative import Draft
from transformer.inference.text_generator import TextGenerator
from transformer.inference.unstacked import for_decoding
from transformer.layers.execution import Execution
from transformer.tokenizers.raw_bytes import ByteTokenizer

GREEDY = Sampling(temperature=0)


def draft_of(model: SharpModel, tokens: int) -> Draft:
    return Draft(model.module, model.params, tokens)


@pytest.mark.parametrize(("name", "tokens"), few(itertools.product(["gpt1", "llama", "t5"], [1, 3]), ("gpt1", 3)))
def test_greedy_says_what_the_model_says_alone(name, tokens, monkeypatch):
    """By a draft that is always right, one that is never, and one that is at times; the cache grows on the way."""
    monkeypatch.setattr(slots, "FEWEST", 8)
    longer = {} if name == "t5" else {"context_length": 96}
    model, other = SharpModel(name, **longer), SharpModel(name, seed=1, **longer)
    noise = np.random.default_rng(2)
    near = jax.tree.map(lambda leaf: leaf + noise.normal(0, 0.1, leaf.shape).astype(np.float32), model.params)
    options = {"max_new_tokens": [40, 9, 20], "rules": DecodingRules(repetition_penalty=3.0, no_repeat_ngram_size=3)}
    alone = model.generate(TEXTS, **options)
    stops = [alone[0][0].tokens[25], alone[2][0].tokens[4]]
    ended = model.generate(TEXTS, **options, stop_ids=stops)
    assert ended != alone
    for params in (model.params, other.params, near):
        draft = Draft(model.module, params, tokens)
        assert model.generate(TEXTS, **options, draft=draft) == alone
        assert model.generate(TEXTS, **options, draft=draft, stop_ids=stops) == ended


def test_unstacked_models_say_the_same():
    model, other = SharpModel("gpt1"), SharpModel("gpt1", seed=1)
    module, params = for_decoding(model.config, model.params, Execution())
    draft = Draft(*for_decoding(other.config, other.params, Execution()), 2)
    unstacked = SharpModel("gpt1")
    unstacked.module, unstacked.params = module, params
    assert unstacked.generate(TEXTS, draft=draft) == model.generate(TEXTS)


VOCABULARY, DRAWN, SAID = 5, 6000, 3


@pytest.fixture(scope="module")
def small():
    """A model and a draft of five words, neither sharp, and the probability of each text of three words."""
    sizes = {"vocab_size": VOCABULARY, "width": 8, "num_heads": 2}
    model, draft = (SharpModel("gpt1", seed=seed, sharpness=0.7, **sizes) for seed in (0, 1))
    return model, draft


def probabilities(model: SharpModel, prompt: list[int], how: Sampling) -> np.ndarray:
    """Returns the probability of every text of `SAID` words after a prompt, by a pass over each."""
    texts = np.asarray(list(itertools.product(range(VOCABULARY), repeat=SAID)), np.int32)
    rows = np.concatenate([np.tile(prompt, (len(texts), 1)), texts], axis=1).astype(np.int32)
    logits = np.asarray(model.apply(tokens=jnp.asarray(rows)), np.float64)[:, len(prompt) - 1 : -1]
    each = np.exp(logits / how.temperature)
    if how.top_k is not None:
        each[logits < np.sort(logits, axis=-1)[..., -how.top_k, None]] = 0.0
    each /= each.sum(axis=-1, keepdims=True)
    return np.take_along_axis(each, texts[:, :, None], axis=2)[..., 0].prod(axis=1)


def unlikely(counts: np.ndarray, expected: np.ndarray) -> float:
    """Returns the p-value of a chi-square test; texts that are expected fewer than five times count as one."""
    often = expected >= 5
    counts, expected = (np.append(x[often], x[~often].sum()) for x in (counts, expected))
    kept = expected > 0
    assert counts[~kept].sum() == 0
    return float(stats.chisquare(counts[kept], expected[kept] * counts.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("how", [Sampling(temperature=1.0), Sampling(temperature=0.8, top_k=3)], ids=["all", "top 3"])
def test_what_is_drawn_has_the_models_distribution(small, how):
    model, other = small
    prompt = [1, 4, 2]
    options = {"how": how, "num": DRAWN, "max_new_tokens": SAID, "draft": draft_of(other, 2)}
    [drawn] = model.generate([prompt], **options)
    digits = VOCABULARY ** np.arange(SAID)[::-1]
    counts = np.bincount([int(digits @ generated.tokens) for generated in drawn], minlength=VOCABULARY**SAID)
    expected = DRAWN * probabilities(model, prompt, how)
    assert unlikely(counts, expected) > 0.01
    assert unlikely(counts, DRAWN * probabilities(other, prompt, Sampling(temperature=how.temperature))) < 1e-6


def test_what_is_drawn_for_a_text_depends_on_its_place_and_not_on_its_batch(small):
    model, other = small
    how, texts, draft = Sampling(temperature=2.0), [[1, 4, 2], [3], [0, 2]], draft_of(other, 2)
    options = {"how": how, "max_new_tokens": 10, "draft": draft}
    whole = model.generate(texts, **options)
    assert [model.generate([text], places=[place], **options)[0] for place, text in enumerate(texts)] == whole


class OtherBytes(ByteTokenizer):
    """The same pieces by another name."""

    fingerprint = "0" * 64


def test_a_generator_takes_a_draft_of_its_own_tokenizer_alone(tmp_path):
    tokenizer = ByteTokenizer()
    sizes = {"vocab_size": tokenizer.vocab_size, "context_length": 64}
    restored, other = (
        Restored(model.config, model.module, model.params, Execution(), tokenizer, None, epath.Path(tmp_path / name))
        for name, model in (("model", SharpModel("gpt1", **sizes)), ("draft", SharpModel("gpt1", seed=1, **sizes)))
    )
    how, texts = {"how": GREEDY, "max_new_tokens": 20}, ["ab", "the cat"]
    assert TextGenerator(restored, other, 2)(texts, **how) == TextGenerator(restored)(texts, **how)
    with pytest.raises(UserError, match=r"the draft \S+draft has another tokenizer .* than \S+model "):
        TextGenerator(restored, dataclasses.replace(other, own_tokenizer=OtherBytes()))


def test_refuses(small):
    model, other = small
    with pytest.raises(UserError, match="2 beams and a draft"):
        model.generate([[1]], how=BeamSearch(beams=2), draft=draft_of(other, 2))
    with pytest.raises(UserError, match="the draft's vocab_size is 32 and the model's 5"):
        model.generate([[1]], draft=draft_of(SharpModel("gpt1"), 2))
    with pytest.raises(UserError, match="the draft's kind is encoder_decoder and the model's decoder"):
        model.generate([[1]], draft=draft_of(SharpModel("t5", vocab_size=5), 2))
    with pytest.raises(UserError, match="tokens is 0: it must be at least 1"):
        draft_of(other, 0)
    short = draft_of(SharpModel("gpt1", vocab_size=5, context_length=8), 2)
    with pytest.raises(UserError, match="the draft's context holds 8"):
        model.generate([[1] * 10], draft=short)
