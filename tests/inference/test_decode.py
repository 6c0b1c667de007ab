"""Decoding equals Transformers' `generate`, and itself without a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from transformer.errors import UserError
from transformer.inference.decode import generate
from transformer.inference.sampling import Sampling
from transformer.interop.gpt2 import GPT2
from transformer.layers.execution import Execution

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def twins():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=53, n_positions=64, n_embd=24, n_layer=2, n_head=3, initializer_range=0.4, bos_token_id=1,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = GPT2.read_config(config.to_dict(), "language_model")
    params = GPT2.from_hf({name: tensor.numpy() for name, tensor in theirs.state_dict().items()}, ours)
    return theirs, ours.build(Execution()), jax.tree.map(jnp.asarray, params)


PROMPTS = [[3], [7, 9, 11, 2, 5], [8, 8, 1, 4, 30, 31, 32, 33, 40]]


def test_greedy_equals_transformers_on_prompts_of_unequal_length(twins):
    theirs, model, params = twins
    ours = generate(model, params, PROMPTS, max_new_tokens=20, sampling=GREEDY)
    for prompt, continued in zip(PROMPTS, ours, strict=True):
        expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)
        assert continued == expected[0, len(prompt) :].tolist()


def test_greedy_equals_greedy_without_a_cache(twins):
    _, model, params = twins
    tokens = list(PROMPTS[1])
    logits_of = jax.jit(lambda row: model.apply({"params": params}, tokens=row).logits)
    for _ in range(12):
        # What comes after the last token cannot change its logits: one shape, one compilation.
        row = jnp.asarray([tokens + [0] * (32 - len(tokens))])
        tokens.append(int(logits_of(row)[0, len(tokens) - 1].argmax()))
    assert generate(model, params, [PROMPTS[1]], max_new_tokens=12, sampling=GREEDY) == [tokens[len(PROMPTS[1]) :]]


def test_a_row_ends_at_the_stop_token_and_the_others_go_on(twins):
    _, model, params = twins
    whole = generate(model, params, PROMPTS, max_new_tokens=20, sampling=GREEDY)
    stop = whole[0][3]
    for full, stopped in zip(
        whole, generate(model, params, PROMPTS, max_new_tokens=20, sampling=GREEDY, stop_id=stop), strict=True
    ):
        assert stopped == (full[: full.index(stop)] if stop in full else full)


def test_sampling_repeats_with_the_seed_and_differs_without(twins):
    _, model, params = twins
    sampling = Sampling(temperature=1.0, top_k=20, top_p=0.95)
    draws = [generate(model, params, PROMPTS, max_new_tokens=16, sampling=sampling, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_first_token_follows_the_models_distribution(twins):
    _, model, params = twins
    sampling = Sampling(temperature=1.5)
    rows = 4000
    draws = generate(model, params, [PROMPTS[1]] * rows, max_new_tokens=1, sampling=sampling)
    frequencies = np.bincount([draw[0] for draw in draws], minlength=53) / rows
    row = jnp.asarray([PROMPTS[1]])
    logits = model.apply({"params": params}, tokens=row, positions=jnp.arange(5)[None]).logits[0, -1]
    np.testing.assert_allclose(frequencies, jax.nn.softmax(logits / 1.5), atol=0.03)


def test_generation_ends_where_the_context_is_full(twins):
    _, model, params = twins
    [continued] = generate(model, params, [[5] * 60], max_new_tokens=100, sampling=GREEDY)
    assert len(continued) == 4


@pytest.mark.parametrize(
    ("prompts", "new", "message"),
    [([[1] * 64], 5, "64 tokens and the model's context holds 64"), ([[]], 5, "no token"), ([[1]], 0, "at least 1")],
)
def test_refuses(twins, prompts, new, message):
    with pytest.raises(UserError, match=message):
        generate(*twins[1:], prompts, max_new_tokens=new, sampling=GREEDY)
