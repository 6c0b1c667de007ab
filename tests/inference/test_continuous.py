"""Continuous batching: each text is continued as alone, whatever shares its batch and whenever it gets a row."""

import itertools

import numpy as np
import pytest
from etils import epath

from tests.exhaustive import few
from tests.inference.sharp_models import SharpModel
from transformer.errors import UserError
from transformer.inference import continuous, slots
from transformer.inference.beam_search import BeamSearch
from transformer.inference.decode import generate
from transformer.inference.restored import Restored
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling
from transformer.inference.text_generator import TextGenerator
from transformer.inference.unstacked import for_decoding
from transformer.layers.execution import Execution
from transformer.tokenizers.raw_bytes import ByteTokenizer

HOWS = {"greedy": Sampling(temperature=0), "drawn": Sampling(temperature=1.5)}
RULES = {
    "none": DecodingRules(),
    "some": DecodingRules(repetition_penalty=1.3, no_repeat_ngram_size=3, suppress_tokens=(3,)),
}
STOPS = (5, 6)


def texts_of(vocab_size, context):
    """Prompts of one token to 40, the most and the least new ones at random; one fills its context."""
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 41, 3).tolist(), 40, *rng.integers(1, 41, 9).tolist(), 1, 33]
    return [
        continuous.Text(
            number=100 + place,
            tokens=rng.integers(7, vocab_size, length).tolist(),
            max_new={3: context, 13: 90}.get(place, int(rng.choice([1, 2, 20, 70]))),
            min_new={3: 110, 13: 80}.get(place, int(rng.choice([0, 15]))),
        )
        for place, length in enumerate(lengths)
    ]


CASES = [*itertools.product(["gpt1", "llama"], HOWS, RULES, [False]), ("gpt", "greedy", "some", True)]


@pytest.mark.parametrize(("name", "how", "rules", "stacked"), few(CASES, ("llama", "drawn", "some", False)))
def test_each_text_is_continued_as_alone(name, how, rules, stacked, monkeypatch):
    """Over slots that are let go of, and more that are taken."""
    monkeypatch.setattr(slots, "FEWEST", 8)
    changed = {"_grown": 0, "_without_oldest": 0}
    for change in changed:

        def counted(*args, change=change, made=getattr(continuous, change)):
            changed[change] += 1
            return made(*args)

        monkeypatch.setattr(continuous, change, counted)
    model = SharpModel(name, context_length=160, **({"window": None} if name == "llama" else {}))
    module, params = (model.module, model.params) if stacked else for_decoding(model.config, model.params, Execution())
    texts = texts_of(model.config.vocab_size, 160)
    options = {"how": HOWS[how], "rules": RULES[rules], "stop_ids": STOPS, "seed": 3}
    found = dict(continuous.continued(module, params, texts, 3, **options))
    assert sorted(found) == [*range(len(texts))]
    for place, text in enumerate(texts):
        numbers = {"max_new_tokens": text.max_new, "min_new_tokens": text.min_new, "places": [text.number]}
        [[alone]] = generate(module, params, [text.tokens], **numbers, **options)
        assert found[place] == alone.tokens, place
    assert len({len(tokens) for tokens in found.values()}) > 4
    assert all(changed.values()), changed


@pytest.fixture
def generator(tmp_path):
    model = SharpModel("gpt1", vocab_size=384, context_length=96)
    restored = Restored(
        model.config, model.module, model.params, Execution(), ByteTokenizer(), None, epath.Path(tmp_path)
    )
    return TextGenerator(restored)


def test_texts_come_back_in_their_order(generator):
    texts = [f"{'x' * (7 * number % 11)} {number}" for number in range(9)]
    options = {"max_new_tokens": 12, "how": Sampling(temperature=1.0), "seed": 1}
    want = generator(texts, batch_size=9, **options)
    for batch_size in (1, 2, 4):
        assert generator(texts, batch_size=batch_size, **options) == want
    parts = [generator(texts[begin : begin + 3], batch_size=2, first=begin, **options) for begin in (0, 3, 6)]
    assert [row for part in parts for row in part] == want


def test_a_text_that_is_too_long_is_refused_before_any_is_read(generator, monkeypatch):
    monkeypatch.setattr(continuous, "begin", None)
    with pytest.raises(UserError, match="a text has 9[0-9] tokens and the model's context holds 96: shorten the text"):
        generator(["a", "b", "y" * 95], batch_size=1)
    with pytest.raises(UserError, match="0 new tokens asked for"):
        generator(["a", "b"], batch_size=1, max_new_tokens=0)


def test_where_it_does_not_apply_batches_are_fixed(generator, monkeypatch):
    monkeypatch.setattr(continuous, "continued", None)
    texts = ["a", "b", "c"]
    for options in ({"how": BeamSearch(2)}, {"num": 2}, {"rules": DecodingRules(encoder_no_repeat_ngram_size=2)}):
        assert len(generator(texts, batch_size=2, max_new_tokens=2, **options)) == 3
    assert len(generator(texts, batch_size=3, max_new_tokens=2)) == 3
    assert not continuous.applies(SharpModel("llama", window=5).module, DecodingRules())
    assert not continuous.applies(SharpModel("t5").module, DecodingRules())
