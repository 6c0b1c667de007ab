"""Decoding equals Transformers' `generate`, token for token, on the same random weights."""

import json

import numpy as np
import pytest
import torch

from tests.exhaustive import few
from transformer.inference import slots
from transformer.inference.beam_search import BeamSearch
from transformer.inference.decode import generate
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling
from transformer.inference.settings import Settings
from transformer.interop.bart import BART
from transformer.interop.deepseek import DEEPSEEK_V3
from transformer.interop.gpt import GPT2
from transformer.interop.llama import LLAMA
from transformer.interop.marian import MARIAN
from transformer.interop.mixtral import MIXTRAL
from transformer.interop.olmoe import OLMOE
from transformer.interop.t5 import T5
from transformer.layers.execution import Execution
from transformer.layers.experts_config import ExpertsConfig
from transformer.models.bart import BartConfig
from transformer.models.deepseek import DeepseekConfig
from transformer.models.gpt import GPTConfig
from transformer.models.llama import LlamaConfig
from transformer.models.marian import MarianConfig
from transformer.models.olmoe import OlmoeConfig
from transformer.models.t5 import T5Config

from . import parity

NEW, VOCABULARY, STOP = 12, 41, 40
_POST_NORM = {
    "vocab_size": VOCABULARY, "decoder_start_id": 2, "context_length": 64, "width": 24, "num_encoder_layers": 2,
    "num_decoder_layers": 2, "num_encoder_heads": 3, "num_decoder_heads": 2, "encoder_mlp_width": 32,
    "decoder_mlp_width": 40,
}  # fmt: skip
_DECODER = {"vocab_size": VOCABULARY, "context_length": 64, "width": 24, "num_layers": 2, "num_heads": 4}
FAMILIES = {
    "gpt2": (GPT2, GPTConfig(**_DECODER)),
    "gpt2, scores by layer": (GPT2, GPTConfig(**_DECODER, divide_scores_by_layer=True)),
    "llama": (LLAMA, LlamaConfig(**_DECODER, num_kv_heads=2, head_width=6, mlp_width=32)),
    "mixtral": (
        MIXTRAL,
        LlamaConfig(
            **_DECODER, num_kv_heads=2, head_width=6, mlp_width=16, window=4,
            experts=ExpertsConfig(num_experts=4, experts_per_token=2, mlp_width=16),
        ),
    ),
    "olmoe": (
        OLMOE,
        OlmoeConfig(
            **_DECODER, num_kv_heads=4, head_width=6, mlp_width=16, clip_qkv=1.0,
            experts=ExpertsConfig(num_experts=4, experts_per_token=2, mlp_width=16, normalize=False),
        ),
    ),
    "deepseek": (
        DEEPSEEK_V3,
        DeepseekConfig(
            **_DECODER, mlp_width=32, query_rank=8, latent_width=10, head_width=6, rotary_width=4, value_width=5,
            first_dense=1,
            experts=ExpertsConfig(
                num_experts=4, experts_per_token=2, mlp_width=16, scores="sigmoid", selection_bias=True,
                shared_experts=1, groups=2, groups_per_token=1,
            ),
        ),
    ),
    "t5": (
        T5,
        T5Config(
            vocab_size=VOCABULARY, width=24, num_encoder_layers=2, num_decoder_layers=2, num_heads=3, head_width=8,
            mlp_width=32,
        ),
    ),
    "bart": (BART, BartConfig(**_POST_NORM)),
    "marian": (MARIAN, MarianConfig(**_POST_NORM)),
}  # fmt: skip
TEXTS = [[3], [7, 9, 11, 2, 5], [8, 8, 1, 4, 30, 31, 32, 33, 39]]
RULES = {
    "counted": {
        "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 1, "min_new_tokens": 9,
        "forced_eos_token_id": STOP,
    },
    "named": {
        "sequence_bias": [[[5], 2.0], [[6, 7], -1.5]], "bad_words_ids": [[9], [8, 10]], "forced_bos_token_id": 13,
        "suppress_tokens": [0, 1], "begin_suppress_tokens": [STOP, 3], "exponential_decay_length_penalty": [4, 1.3],
        "encoder_repetition_penalty": 1.2, "remove_invalid_values": True, "renormalize_logits": True, "min_length": 6,
    },
}  # fmt: skip
"""As in a generation_config.json; every rule is in one of them."""
BEAMS = {
    "4 beams": BeamSearch(beams=4),
    "short ones": BeamSearch(beams=3, length_penalty=0.0),
    "stops early": BeamSearch(beams=4, length_penalty=2.0, early_stopping=True),
    "never early": BeamSearch(beams=3, early_stopping="never"),
}


@pytest.fixture(autouse=True)
def few_slots(monkeypatch):
    """Caches begin small, so that they grow."""
    monkeypatch.setattr(slots, "FEWEST", 8)


@pytest.fixture(scope="module")
def pair(request):
    family, config = FAMILIES[request.param]
    return parity.make_pair(family, config)


def theirs(pair, text, num=1, **options) -> tuple[list[list[int]], list[float]]:
    """What Transformers makes of one text: continuations without prompt and padding, and their scores."""
    answers = pair.config.kind == "encoder_decoder"
    if answers:
        options["decoder_start_token_id"] = pair.config.decoder_start_id
    ids = torch.tensor([text])
    defaults = {"max_new_tokens": NEW, "eos_token_id": STOP, "forced_eos_token_id": None}
    out = pair.theirs.generate(
        ids, attention_mask=torch.ones_like(ids), **defaults | options,
        pad_token_id=STOP, num_return_sequences=num, return_dict_in_generate=True, output_scores=True,
        bos_token_id=None,
    )  # fmt: skip
    rows = [row[1 if answers else len(text) :].tolist() for row in out.sequences]
    scores = out.sequences_scores.tolist() if options.get("num_beams", 1) > 1 else []
    return [row[: row.index(STOP)] if STOP in row else row for row in rows], scores


@pytest.mark.parametrize(
    ("pair", "penalty"),
    few([*((name, 1.5) for name in FAMILIES), ("gpt2", 1.0), ("bart", 1.0)], ("gpt2", 1.5)),
    indirect=["pair"],
    scope="module",
)
def test_greedy_equals_transformers(pair, penalty):
    model, rules = pair.config.build(Execution()), DecodingRules(repetition_penalty=penalty)
    ours = generate(
        model, pair.params, TEXTS, max_new_tokens=NEW, how=Sampling(temperature=0), rules=rules, stop_ids=[STOP]
    )
    for text, [generated] in zip(TEXTS, ours, strict=True):
        [expected], _ = theirs(pair, text, do_sample=False, repetition_penalty=penalty)
        assert generated.tokens == expected


@pytest.mark.parametrize("pair", ["mixtral"], indirect=True, scope="module")
def test_a_rolling_cache_equals_transformers(pair):
    """Past many windows of four tokens, with the cache's 32 slots filled again and again."""
    declared = {"repetition_penalty": 1.5, "suppress_tokens": (STOP,)}
    ours = generate(
        pair.config.build(Execution()), pair.params, TEXTS, max_new_tokens=50, how=Sampling(temperature=0),
        rules=DecodingRules(**declared),
    )  # fmt: skip
    for text, [generated] in zip(TEXTS, ours, strict=True):
        [expected], _ = theirs(pair, text, do_sample=False, max_new_tokens=50, **declared | {"suppress_tokens": [STOP]})
        assert len(generated.tokens) == 50
        assert generated.tokens == expected


# Beams know no model: every family has one kind, and some have all.
_ALL_BEAMS = ("gpt2", "t5", "bart")
_BEAMS = [(name, how) for name in FAMILIES for how in (BEAMS if name in _ALL_BEAMS else ["4 beams"])]


@pytest.mark.parametrize(("pair", "how"), few(_BEAMS, ("bart", "stops early")), indirect=["pair"], scope="module")
def test_beam_search_equals_transformers(pair, how):
    how = BEAMS[how]
    model = pair.config.build(Execution())
    ours = generate(model, pair.params, TEXTS, max_new_tokens=NEW, how=how, num=how.beams, stop_ids=[STOP])
    for text, found in zip(TEXTS, ours, strict=True):
        expected, scores = theirs(
            pair, text, how.beams, do_sample=False, num_beams=how.beams, length_penalty=how.length_penalty,
            early_stopping=how.early_stopping,
        )  # fmt: skip
        assert [one.tokens for one in found] == expected
        np.testing.assert_allclose([one.score for one in found], scores, rtol=1e-5)


# Rules know no model. BART stands for those that have a source, which some rules read, and GPT-2 for the others.
@pytest.mark.parametrize("pair", few(["gpt2", "bart"], "bart"), indirect=True, scope="module")
@pytest.mark.parametrize("beams", few([1, 3], 3))
@pytest.mark.parametrize("declared", RULES.values(), ids=RULES)
def test_declared_settings_equal_transformers(pair, declared, beams, tmp_path):
    """What a folder declares does what it does in `generate`; one beam is greedy, by logits as there."""
    stops = [STOP, 17]
    (tmp_path / "generation_config.json").write_text(
        json.dumps({**declared, "num_beams": beams, "eos_token_id": stops, "max_new_tokens": NEW})
    )
    settings = Settings.read(tmp_path)
    assert settings.stop_ids == tuple(stops)
    lengths = [1 if pair.config.kind == "encoder_decoder" else len(text) for text in TEXTS]
    for how in [settings.how] if beams > 1 else [settings.how, BeamSearch(beams=1)]:
        ours = generate(
            pair.config.build(Execution()), pair.params, TEXTS, max_new_tokens=settings.max_new(lengths),
            min_new_tokens=settings.min_new(lengths), how=how, rules=settings.rules, stop_ids=settings.stop_ids,
        )  # fmt: skip
        for text, [generated] in zip(TEXTS, ours, strict=True):
            options = {"do_sample": False, "num_beams": beams, "eos_token_id": stops, **declared}
            [expected], _ = theirs(pair, text, **options)
            ends = [expected.index(stop) for stop in stops if stop in expected]
            assert generated.tokens == expected[: min(ends, default=NEW)]
