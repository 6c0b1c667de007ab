"""Decoding equals Transformers' `generate`, token for token, on the same random weights."""

import numpy as np
import pytest
import torch

from transformer.inference.beam_search import BeamSearch
from transformer.inference.decode import generate
from transformer.inference.sampling import Sampling
from transformer.interop.bart import BART
from transformer.interop.gpt2 import GPT2
from transformer.interop.llama import LLAMA
from transformer.interop.marian import MARIAN
from transformer.interop.t5 import T5
from transformer.layers.execution import Execution
from transformer.models.bart import BartConfig
from transformer.models.gpt import GPTConfig
from transformer.models.llama import LlamaConfig
from transformer.models.marian import MarianConfig
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
    "llama": (LLAMA, LlamaConfig(**_DECODER, num_kv_heads=2, head_width=6, mlp_width=32)),
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
BEAMS = {
    "4 beams": BeamSearch(beams=4),
    "short ones": BeamSearch(beams=3, length_penalty=0.0),
    "stops early": BeamSearch(beams=4, length_penalty=2.0, early_stopping=True),
}


@pytest.fixture(params=FAMILIES, scope="module")
def pair(request):
    family, config = FAMILIES[request.param]
    return parity.make_pair(family, config)


def theirs(pair, text, num=1, **options) -> tuple[list[list[int]], list[float]]:
    """What Transformers makes of one text: continuations without prompt and padding, and their scores."""
    answers = pair.config.kind == "encoder_decoder"
    if answers:
        options["decoder_start_token_id"] = pair.config.decoder_start_id
    ids = torch.tensor([text])
    out = pair.theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, eos_token_id=STOP, pad_token_id=STOP,
        num_return_sequences=num, return_dict_in_generate=True, output_scores=True, bos_token_id=None,
        forced_eos_token_id=None, **options,
    )  # fmt: skip
    rows = [row[1 if answers else len(text) :].tolist() for row in out.sequences]
    scores = out.sequences_scores.tolist() if options.get("num_beams", 1) > 1 else []
    return [row[: row.index(STOP)] if STOP in row else row for row in rows], scores


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_equals_transformers(pair, penalty):
    how = Sampling(temperature=0, repetition_penalty=penalty)
    model = pair.config.build(Execution())
    ours = generate(model, pair.params, TEXTS, max_new_tokens=NEW, how=how, stop_ids=[STOP])
    for text, [generated] in zip(TEXTS, ours, strict=True):
        [expected], _ = theirs(pair, text, do_sample=False, repetition_penalty=penalty)
        assert generated.tokens == expected


@pytest.mark.parametrize("how", BEAMS.values(), ids=BEAMS)
def test_beam_search_equals_transformers(pair, how):
    model = pair.config.build(Execution())
    ours = generate(model, pair.params, TEXTS, max_new_tokens=NEW, how=how, num=how.beams, stop_ids=[STOP])
    for text, found in zip(TEXTS, ours, strict=True):
        expected, scores = theirs(
            pair, text, how.beams, do_sample=False, num_beams=how.beams, length_penalty=how.length_penalty,
            early_stopping=how.early_stopping, repetition_penalty=how.repetition_penalty,
        )  # fmt: skip
        assert [one.tokens for one in found] == expected
        np.testing.assert_allclose([one.score for one in found], scores, rtol=1e-5)
