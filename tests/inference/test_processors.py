"""Rules change scores as Transformers' own list of logits processors does, in any combination."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transformer.errors import UserError
from transformer.inference.processors import NOTHING, Processors
from transformer.inference.rules import DecodingRules

VOCABULARY, PROMPT, NEW = 7, 6, 8
TOKEN = st.integers(0, VOCABULARY - 1)
TOKENS = st.lists(TOKEN, min_size=1, max_size=3).map(tuple)
WORDS = st.lists(TOKENS, min_size=1, max_size=3, unique=True)
RULES = {
    "sequence_bias": st.lists(
        st.tuples(TOKENS, st.floats(-3, 3, width=32)), min_size=1, max_size=3, unique_by=lambda pair: pair[0]
    ),
    "encoder_repetition_penalty": st.sampled_from([0.5, 1.7]),
    "repetition_penalty": st.sampled_from([0.5, 1.7]),
    "no_repeat_ngram_size": st.integers(1, 4),
    "encoder_no_repeat_ngram_size": st.integers(1, 4),
    "bad_words_ids": WORDS,
    "forced_bos_token_id": TOKEN,
    "forced_eos_token_id": TOKENS,
    "remove_invalid_values": st.just(True),
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 4), st.floats(1.0, 1.5)),
    "suppress_tokens": st.lists(TOKEN, min_size=1, max_size=2),
    "begin_suppress_tokens": st.lists(TOKEN, min_size=1, max_size=2),
    "renormalize_logits": st.just(True),
}


@pytest.fixture(scope="module")
def models():
    """Transformers' list of processors depends on its model: on whether that is an encoder-decoder."""
    sizes = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "decoder_start_token_id": 0}
    gpt2 = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=4, n_layer=1, n_head=1, n_positions=16, **sizes)
    t5 = transformers.T5Config(vocab_size=VOCABULARY, d_model=4, d_kv=4, d_ff=4, num_layers=1, num_heads=1, **sizes)
    return {False: transformers.GPT2LMHeadModel(gpt2), True: transformers.T5ForConditionalGeneration(t5)}


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10_000),
    answers=st.booleans(),
    prompt=st.integers(1, PROMPT),
    said=st.integers(0, NEW - 1),
    min_new=st.integers(0, 4),
    stops=st.lists(TOKEN, min_size=1, max_size=2, unique=True),
    rules=st.fixed_dictionaries({}, optional=RULES),
)
def test_scores_equal_transformers(models, seed, answers, prompt, said, min_new, stops, rules):
    """A row by itself; our rows have padding before the prompt and room after the new tokens."""
    forced = {rules.get("forced_bos_token_id"), *rules.get("forced_eos_token_id", ())}
    assume(not forced & set(rules.get("suppress_tokens", ())))  # which they refuse
    assume(any(len(word) > 1 or word[0] not in stops for word in rules.get("bad_words_ids", [(0, 0)])))
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(1, VOCABULARY)).astype(np.float32)
    read = rng.integers(0, VOCABULARY, PROMPT if answers else prompt).tolist()
    before = [3] if answers else read
    row = [*before, *rng.integers(0, VOCABULARY, said).tolist()]

    theirs = {name: _theirs(value) for name, value in rules.items()}
    config = transformers.GenerationConfig(
        **theirs, min_new_tokens=min_new, max_length=len(before) + NEW, eos_token_id=stops
    )
    config._eos_token_tensor = torch.tensor(stops)
    processors = models[answers]._get_logits_processor(
        config, input_ids_seq_length=len(before), encoder_input_ids=torch.tensor([read]), device="cpu"
    )
    expected = processors(torch.tensor([row]), torch.tensor(scores)).numpy()

    ours = Processors.of(
        DecodingRules(**{name: tuple(value) if isinstance(value, list) else value for name, value in rules.items()}),
        stop_ids=stops, read=[read], prompt_lengths=[len(before)], width=PROMPT, min_new=[min_new], max_new=[NEW],
    )  # fmt: skip
    history = np.full((1, PROMPT + NEW), NOTHING, np.int32)
    history[0, PROMPT - len(before) : PROMPT + said] = row
    found = ours(jnp.asarray(scores), jnp.asarray(history), jnp.int32(said), jnp.int32(PROMPT + said))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def _theirs(value):
    """Returns tuples as lists, as JSON has them."""
    return [_theirs(part) for part in value] if isinstance(value, list | tuple) else value


def test_numbers_of_rows_repeat():
    one = Processors.of(
        DecodingRules(encoder_no_repeat_ngram_size=1),
        stop_ids=[1],
        read=[[1, 2], [3]],
        prompt_lengths=[2, 1],
        width=2,
        min_new=[0, 2],
        max_new=[4, 5],
    )
    assert one.repeat(2).max_new_R.tolist() == [4, 4, 5, 5]
    assert np.asarray(one.repeat(2).read_RS).tolist() == [[1, 2], [1, 2], [3, NOTHING], [3, NOTHING]]


def test_rows_that_have_come_unequally_far_are_each_as_if_alone():
    rules = DecodingRules(
        repetition_penalty=1.5, no_repeat_ngram_size=2, encoder_no_repeat_ngram_size=2, encoder_repetition_penalty=1.2,
        forced_bos_token_id=4, forced_eos_token_id=(2,), sequence_bias=(((5, 6), 3.0),), suppress_tokens=(7,),
        begin_suppress_tokens=(8,), exponential_decay_length_penalty=(2, 1.5),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    read, said, prompts = [[3], [5, 6, 9], [5, 6, 5]], [0, 1, 4], [1, 3, 3]
    scores_RV = jnp.asarray(rng.normal(size=(3, 12)), jnp.float32)
    history_RL = np.full((3, 9), NOTHING, np.int32)
    for row, number, text in zip(history_RL, said, read, strict=True):
        row[3 - len(text) : 3 + number] = [*text, *rng.integers(0, 12, number)]
    ends = [3 + number for number in said]

    def of(rows: slice) -> Processors:
        return Processors.of(
            rules, stop_ids=[2], read=read[rows], prompt_lengths=prompts[rows], width=3, min_new=[0, 2, 5][rows],
            max_new=[5, 2, 5][rows],
        )  # fmt: skip

    found = of(slice(None)).each(scores_RV, jnp.asarray(history_RL), jnp.asarray(said), jnp.asarray(ends))
    for row in range(3):
        part = slice(row, row + 1)
        counts = jnp.int32(said[row]), jnp.int32(ends[row])
        np.testing.assert_array_equal(found[part], of(part)(scores_RV[part], jnp.asarray(history_RL)[part], *counts))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0: it must be above 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"bad_words_ids": ((),)}, "bad_words_ids holds an empty list"),
        ({"forced_eos_token_id": (-1,)}, "forced_eos_token_id holds -1"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(UserError, match=message):
        DecodingRules(**fields)


def test_rules_of_tokens_that_the_model_lacks_are_refused():
    with pytest.raises(UserError, match="forced_bos_token_id holds 250004: the model's vocabulary has 7 tokens"):
        DecodingRules(forced_bos_token_id=250004).check_ids(VOCABULARY)
    DecodingRules(suppress_tokens=(250004,)).check_ids(VOCABULARY)
