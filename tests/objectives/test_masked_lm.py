"""Masked language modelling: what is chosen, what hides it, and that nothing else is told."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from transformer.data.pipeline import eval_batches, train_batches
from transformer.errors import UserError
from transformer.layers.heads import LanguageModelOutput, PretrainingOutput
from transformer.objectives import MaskedLM

from .world import (
    BOS,
    EOS,
    FIRST,
    LONG,
    MASK,
    STORE,
    VOCABULARY,
    WORDS,
    chosen,
    examples,
    make_store,
    original,
    records,
    setting,
)

CHOICES = [
    MaskedLM(),
    MaskedLM(choose="words"),
    MaskedLM(choose="spans", boundary=True),
    MaskedLM(sentence="nsp"),
    MaskedLM(sentence="sop", choose="ngrams"),
]


@pytest.mark.parametrize("objective", CHOICES)
def test_fifteen_percent_of_each_row_is_chosen_and_no_special_or_padding(objective):
    for example in examples(objective, 64, STORE, 300):
        inputs, places = example["inputs"], chosen(example)
        count = max(1, round(0.15 * int((inputs["segment_ids"] > 0).sum())))
        assert len(places) <= count
        if objective.choose != "words":  # the last words may all be too long
            assert len(places) == count
        assert (np.diff(places) > 0).all()
        assert (inputs["segment_ids"][places] > 0).all()
        assert (example["targets"][example["weights"] > 0] >= FIRST).all()
        assert set(np.unique(example["weights"])) <= {0.0, 1.0}
        assert example["targets"].shape == inputs["masked_positions"].shape == (round(0.15 * 64),)
        assert {array.dtype for array in inputs.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize("objective", [MaskedLM(), MaskedLM(choose="words"), MaskedLM(choose="spans")])
def test_eighty_ten_ten(objective):
    """Over 70,000 tokens: three standard errors of the tenths are 0.35 %; spans, of 4 tokens and more, have twice."""
    hidden, targets = [], []
    for example in examples(objective, 512, LONG, 900):
        hidden.append(example["inputs"]["tokens"][chosen(example)])
        targets.append(example["targets"][example["weights"] > 0])
    hidden, targets = np.concatenate(hidden), np.concatenate(targets)
    assert len(targets) / (900 * 512) == pytest.approx(0.15, rel=0.01)
    # A random piece is now and then the right one.
    slack = 0.012 if objective.choose == "spans" else 0.0045
    assert np.mean(hidden == MASK) == pytest.approx(0.8, abs=slack)
    assert np.mean(hidden == targets) == pytest.approx(0.1, abs=slack)
    random = hidden[(hidden != MASK) & (hidden != targets)]
    assert len(random) / len(hidden) == pytest.approx(0.1, abs=slack)
    assert random.min() >= FIRST
    assert np.mean(random) == pytest.approx((FIRST + VOCABULARY.size - 1) / 2, rel=0.03)


def test_every_place_is_chosen_as_often():
    times = np.zeros(64)
    for example in examples(MaskedLM(), 64, LONG, 6000):
        times[chosen(example)] += 1
    assert times[0] == times[-1] == 0  # <s> and </s>
    rate = 10 / 62
    np.testing.assert_allclose(times[1:-1] / 6000, rate, atol=4 * np.sqrt(rate * (1 - rate) / 6000))


@pytest.mark.parametrize("objective", CHOICES)
def test_the_inputs_do_not_depend_on_what_they_hide(objective):
    """Other tokens in the places of those that are hidden: no input changes."""
    cut, checked = records(objective, 64, STORE), 0
    for number in range(60):
        record = cut.draw(number, np.random.default_rng(number))
        before = objective.example(record, np.random.default_rng(7), setting(64))
        tokens, places = before["inputs"]["tokens"], chosen(before)
        unseen = places[tokens[places] != before["targets"][: len(places)]]
        # Where a word begins may be known, so a token takes the place of one of its kind.
        pool = np.arange(FIRST, WORDS), np.arange(WORDS, VOCABULARY.size - 100)
        rng = np.random.default_rng(number)
        truth = original(before)
        changed = truth.copy()
        changed[unseen] = [rng.choice(pool[int(token >= WORDS)]) for token in truth[unseen]]
        record = {name: values.copy() for name, values in record.items()}
        for name in ("tokens", "other_tokens"):
            if name in record:
                record[name] = replace_runs(record[name], truth, changed)
        after = objective.example(record, np.random.default_rng(7), setting(64))
        for name, value in before["inputs"].items():
            np.testing.assert_array_equal(value, after["inputs"][name], err_msg=name)
        checked += int((after["targets"] != before["targets"]).sum())
    assert checked > 60


def replace_runs(tokens, truth, changed):
    """`tokens`, where the texts of the row `truth` that lie in it are those of the row `changed`."""
    tokens = tokens.copy()
    text = np.concatenate(([False], truth >= FIRST, [False]))
    edges = np.flatnonzero(np.diff(text.astype(int)))
    for start, stop in edges.reshape(-1, 2):
        run = truth[start:stop]
        for at in range(len(tokens) - len(run) + 1):
            if np.array_equal(tokens[at : at + len(run)], run):
                tokens[at : at + len(run)] = changed[start:stop]
                break
    return tokens


def test_rows_are_packed_documents_that_begin_and_end():
    for example in examples(MaskedLM(), 64, STORE, 300):
        tokens, segments = original(example), example["inputs"]["segment_ids"]
        filled = int((segments > 0).sum())
        assert filled >= 62
        assert (segments[:filled] > 0).all()
        for segment in range(1, segments.max() + 1):
            places = np.flatnonzero(segments == segment)
            assert tokens[places[0]] == BOS
            assert tokens[places[-1]] == EOS
            np.testing.assert_array_equal(example["inputs"]["positions"][places], np.arange(len(places)))
        assert (example["inputs"]["positions"][filled:] == 0).all()


def test_whole_words_are_hidden_whole():
    for example in examples(MaskedLM(choose="words"), 128, STORE, 100):
        tokens, hidden = original(example), np.zeros(129, bool)
        hidden[chosen(example)] = True
        starts = (tokens < WORDS) | np.concatenate(([True], tokens[:-1] < FIRST))
        continues = ~starts & (example["inputs"]["segment_ids"] > 0)
        np.testing.assert_array_equal(hidden[1:128][continues[1:]], hidden[:127][continues[1:]])


def test_static_masks_repeat_after_their_copies_and_others_never():
    def epochs(objective):
        cut = records(objective, 64, make_store([62 * 40]))
        batches = train_batches(
            [cut],
            [1.0],
            example=lambda record, rng: objective.example(record, rng, setting(64)),
            batch_size=len(cut),
            seed=5,
            copies=objective.copies,
        )
        return [sorted(map(bytes, batches[epoch]["inputs"]["tokens"])) for epoch in range(5)]

    fixed, fresh = epochs(MaskedLM(static_copies=2)), epochs(MaskedLM())
    assert fixed[0] == fixed[2] == fixed[4]
    assert fixed[1] == fixed[3]
    assert not set(fixed[0]) & set(fixed[1])
    assert all(not set(fresh[0]) & set(other) for other in fresh[1:])


@pytest.mark.parametrize("objective", few(CHOICES, CHOICES[2]))
def test_evaluation_hides_the_same_every_time(objective):
    cut = records(objective, 64, STORE, drop_remainder=False)

    def everything():
        dataset = eval_batches(
            cut, example=lambda record, rng: objective.example(record, rng, setting(64)), batch_size=64
        )
        return [dataset[i] for i in range(len(dataset))]

    first, second = everything(), everything()
    for a, b in zip(first, second, strict=True):
        for name in a["inputs"]:
            np.testing.assert_array_equal(a["inputs"][name], b["inputs"][name])
    spare = len(first) * 64 - len(cut)
    assert (first[-1]["weights"][-spare:] == 0).all()
    assert {batch["targets"].shape for batch in first} == {(64, 10)}


def numpy_nll(hidden, kernel, bias, targets):
    logits = hidden @ kernel.T + bias
    logits -= logits.max(axis=-1, keepdims=True)
    scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(scores, targets[..., None], axis=-1)[..., 0], scores


def outputs_of(rng, rows=4, places=10, width=8, vocab=50):
    arrays = {
        "hidden_BTD": rng.normal(size=(rows, places, width)),
        "unembedding_VD": rng.normal(size=(vocab, width)),
        "bias_V": rng.normal(size=vocab),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def test_the_loss_is_that_of_a_plain_formula():
    rng = np.random.default_rng(0)
    main, boundary = outputs_of(rng), outputs_of(rng)
    sentence = rng.normal(size=(4, 2)).astype(np.float32)
    batch = {
        "inputs": {},
        "targets": rng.integers(0, 50, (4, 10)).astype(np.int32),
        "weights": (np.arange(10) < np.array([[10], [7], [1], [0]])).astype(np.float32),
        "sentence_targets": np.array([0, 1, 1, 0], np.int32),
    }
    weights = batch["weights"]
    outputs = PretrainingOutput(
        **{name: jnp.asarray(array) for name, array in main.items()},
        sentence_B2=jnp.asarray(sentence),
        boundary=LanguageModelOutput(**{name: jnp.asarray(array) for name, array in boundary.items()}),
    )
    nll, scores = numpy_nll(main["hidden_BTD"], main["unembedding_VD"], main["bias_V"], batch["targets"])
    boundary_nll, _ = numpy_nll(
        boundary["hidden_BTD"], boundary["unembedding_VD"], boundary["bias_V"], batch["targets"]
    )
    sentence_nll = np.log(np.exp(sentence).sum(axis=1)) - sentence[np.arange(4), batch["sentence_targets"]]
    objective = MaskedLM(choose="spans", boundary=True, sentence="nsp")
    loss_sum, weight, metrics = objective.loss(outputs, batch)
    expected = (weights * (nll + boundary_nll)).sum() + (weights.sum(axis=1) * sentence_nll).sum()
    assert float(weight) == 18
    assert float(loss_sum) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["nll"]) == pytest.approx((weights * nll).sum(), rel=1e-5)
    assert float(metrics["accuracy"]) == (weights * (scores.argmax(axis=-1) == batch["targets"])).sum()
    assert float(metrics["boundary_nll"]) == pytest.approx((weights * boundary_nll).sum(), rel=1e-5)
    right = sentence.argmax(axis=1) == batch["sentence_targets"]
    assert float(metrics["sentence_accuracy"]) == pytest.approx((weights.sum(axis=1) * right).sum())

    # With as many targets in each row it is the mean over tokens and the mean over rows, added.
    full = batch | {"weights": np.ones((4, 10), np.float32)}
    loss_sum, weight, _ = MaskedLM(sentence="sop").loss(outputs, full)
    assert float(loss_sum / weight) == pytest.approx(nll.mean() + sentence_nll.mean(), rel=1e-5)


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match=r"boundary is True: it needs choose spans"):
        MaskedLM(boundary=True)
    with pytest.raises(UserError, match=r"rate is 1.5: it must lie in \(0, 1\)"):
        MaskedLM(rate=1.5)
    with pytest.raises(UserError, match=r"train.seq_len 8 is too short for masked_lm: give at least 10"):
        MaskedLM().reading(8)
    without = dataclasses.replace(VOCABULARY, mask_id=None)
    with pytest.raises(UserError, match=r"none of the specials \[MASK\], <mask>"):
        MaskedLM().check(dataclasses.replace(setting(64), vocabulary=without))
    without = dataclasses.replace(VOCABULARY, sep_id=None)
    MaskedLM().check(dataclasses.replace(setting(64), vocabulary=without))
    with pytest.raises(UserError, match=r"none of the specials \[SEP\]"):
        MaskedLM(sentence="nsp").check(dataclasses.replace(setting(64), vocabulary=without))
    outputs = PretrainingOutput(**{n: jnp.asarray(a) for n, a in outputs_of(np.random.default_rng(0)).items()})
    batch = {"targets": np.zeros((4, 10), np.int32), "weights": np.ones((4, 10), np.float32)}
    with pytest.raises(UserError, match="no boundary head"):
        MaskedLM(choose="spans", boundary=True).loss(outputs, batch)
