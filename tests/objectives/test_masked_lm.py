"""Masked language modelling: what is chosen, what hides it, and that nothing else is told."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.exhaustive import few
from transformer.data.pipeline import eval_batches, train_batches
from transformer.errors import UserError
from transformer.layers.heads import LanguageModelOutput, PretrainingOutput
from transformer.objectives import MaskedLM, masking, span_masking
from transformer.objectives.sentence_pairs import make_pair

from .world import BOS, CLS, EOS, FIRST, MASK, SEP, VOCABULARY, WORDS, examples, make_store, records, setting

LENGTHS = np.random.default_rng(3).integers(20, 900, 300).tolist()
STORE = make_store(LENGTHS)
LONG = make_store([400_000])


def original(example):
    """The row before anything was hidden."""
    tokens = example["inputs"]["tokens"].copy()
    used = example["weights"] > 0
    tokens[example["inputs"]["masked_positions"][used]] = example["targets"][used]
    return tokens


def chosen(example):
    return example["inputs"]["masked_positions"][example["weights"] > 0]


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


def test_span_lengths_are_spanberts():
    """Joshi et al. 2020, figure 2: geometric with p = 0.2, at most 10 words, a mean of 3.8."""
    shares = span_masking.SPANBERT
    np.testing.assert_allclose(shares[1:] / shares[:-1], 0.8)
    assert shares @ np.arange(1, 11) == pytest.approx(3.797, abs=1e-3)
    # Drawn: one word a token, so that no span is cut but the last of a row.
    maskable = np.ones(4000, bool)
    maskable[[0, -1]] = False
    lengths = []
    for seed in range(60):
        spans = span_masking.choose_spans(maskable, maskable, 600, shares, np.random.default_rng(seed))
        assert (spans[1:, 0] > spans[:-1, 1]).all()
        assert (spans[:, 1] - spans[:, 0]).sum() == 600
        lengths += (spans[:, 1] - spans[:, 0]).tolist()
    assert max(lengths) == 10
    assert np.mean(lengths) == pytest.approx(3.797, rel=0.025)
    assert np.mean(np.array(lengths) == 1) == pytest.approx(shares[0], abs=0.01)


def test_ngrams_are_alberts():
    """Lan et al. 2020, section 4.1: up to three words, in proportion to 1/n; each token has a fate of its own."""
    np.testing.assert_allclose(span_masking.ALBERT * np.arange(1, 4), 6 / 11)
    maskable = np.ones(4000, bool)
    spans = np.concatenate(
        [
            span_masking.choose_spans(maskable, maskable, 600, span_masking.ALBERT, np.random.default_rng(seed))
            for seed in range(40)
        ]
    )
    shares = np.bincount(spans[:, 1] - spans[:, 0], minlength=4)[1:] / len(spans)
    np.testing.assert_allclose(shares, span_masking.ALBERT, atol=0.012)
    mixed = 0
    for example in examples(MaskedLM(choose="ngrams"), 128, STORE, 60):
        tokens, places = original(example), chosen(example)
        fates = [kind(example["inputs"]["tokens"][i], tokens[i]) for i in places]
        mixed += sum(a != b for a, b, near in zip(fates, fates[1:], np.diff(places) == 1, strict=False) if near)
    assert mixed > 60


def test_spans_are_words_with_seen_tokens_around_them():
    words, cut = [], 0
    for example in examples(MaskedLM(choose="spans", boundary=True), 256, STORE, 200):
        inputs, tokens, used = example["inputs"], original(example), example["weights"] > 0
        places, left, right, offset = (
            inputs[name][used] for name in ("masked_positions", "boundary_left", "boundary_right", "boundary_offset")
        )
        np.testing.assert_array_equal(places - offset - 1, left)
        hidden = set(places.tolist())
        assert not hidden & set(left.tolist() + right.tolist())
        assert offset.max() < span_masking.MAX_TOKENS
        for start, stop in {(int(a) + 1, int(b)) for a, b in zip(left, right, strict=True)}:
            assert hidden.issuperset(range(start, stop))
            assert len({int(inputs["segment_ids"][i]) for i in range(start - 1, stop + 1)}) == 1
            assert tokens[start] < WORDS or tokens[start - 1] < FIRST  # begins with a word
            cut += bool(tokens[stop] >= WORDS)
            words.append(int((tokens[start:stop] < WORDS).sum()))
            fates = {kind(inputs["tokens"][i], tokens[i]) for i in range(start, stop)}
            assert len(fates) == 1
    assert cut <= 200  # at most the one span a row that the budget cuts
    assert 3.2 < np.mean(words) < 3.9


def kind(shown, truth):
    return "mask" if shown == MASK else "kept" if shown == truth else "random"


def find(store, tokens):
    """Where in the stream these tokens stand: everywhere that they do."""
    stream = store.tokens.astype(np.int64)
    starts = np.flatnonzero(stream[: len(stream) - len(tokens) + 1] == tokens[0])
    return [int(i) for i in starts if np.array_equal(stream[i : i + len(tokens)], tokens)]


def pair_of(example):
    tokens, segments, types = original(example), example["inputs"]["segment_ids"], example["inputs"]["token_types"]
    row = tokens[segments > 0]
    first, second = np.flatnonzero(row == SEP)
    assert row[0] == CLS
    assert second == len(row) - 1
    np.testing.assert_array_equal(types[: len(row)], np.arange(len(row)) > first)
    assert (types[len(row) :] == 0).all()
    np.testing.assert_array_equal(example["inputs"]["positions"], np.arange(len(tokens)) * (segments > 0))
    return row[1:first], row[first + 1 : second]


@pytest.mark.parametrize("task", ["nsp", "sop"])
def test_half_of_the_pairs_are_false(task):
    found = [e["sentence_targets"] for e in examples(MaskedLM(sentence=task), 64, LONG, 6000)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)


def test_a_true_pair_follows_and_a_false_one_is_another_documents():
    ends = STORE.offsets[1:]
    for example in examples(MaskedLM(sentence="nsp"), 96, STORE, 120):
        first, second = pair_of(example)
        if example["sentence_targets"] == 0:
            assert find(STORE, np.concatenate((first, second)))
        elif min(len(first), len(second)) > 3:
            [a], [b] = find(STORE, first), find(STORE, second)
            assert np.searchsorted(ends, a, side="right") != np.searchsorted(ends, b, side="right")


def test_a_false_order_is_the_true_one_swapped():
    for example in examples(MaskedLM(sentence="sop"), 96, STORE, 120):
        first, second = pair_of(example)
        if example["sentence_targets"] == 1:
            first, second = second, first
        [start] = find(STORE, np.concatenate((first, second)))
        assert STORE.tokens[start + len(first) + len(second)] < WORDS  # the next word, or </s>


@pytest.mark.parametrize("task", ["nsp", "sop"])
def test_neither_lengths_nor_edges_give_the_sentence_task_away(task):
    """Documents of many parts: both classes have rows as long, and begin and end at words."""
    store = make_store([5000] * 40)
    lengths: dict[int, list[int]] = {0: [], 1: []}
    for example in examples(MaskedLM(sentence=task), 64, store, 3000):
        first, second = pair_of(example)
        lengths[int(example["sentence_targets"])].append(len(first) + len(second))
        assert first[0] < WORDS
        assert second[0] < WORDS
    assert np.mean(lengths[0]) == pytest.approx(np.mean(lengths[1]), abs=0.15)
    assert np.mean(lengths[0]) > {"nsp": 57, "sop": 53}[task]  # a word less at either end


def test_the_words_at_the_borders_do_not_tell_the_order():
    """Long words, each followed by a sign: a part begins inside a word, so after it a sign is next more often than
    elsewhere. Were that where the first sentence begins, eight of nine true pairs would begin with a sign."""
    long, sign = [FIRST + 1, *[WORDS + 1] * 7], [FIRST]
    text = np.array((long + sign) * 12)
    begins: dict[int, list[tuple[bool, bool, bool]]] = {0: [], 1: []}
    for index in range(3000):
        rng = np.random.default_rng(index)
        tokens = text[(start := rng.integers(9)) : start + 61]
        pair = make_pair("sop", {"tokens": tokens, "segment_ids": np.ones_like(tokens)}, VOCABULARY, rng)
        begins[pair.target].append((pair.first[0] == FIRST, pair.second[0] == FIRST, pair.second[-1] == FIRST))
    for true, false in zip(np.mean(begins[0], axis=0), np.mean(begins[1], axis=0), strict=True):
        assert true == pytest.approx(false, abs=0.06)


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


@given(st.integers(8, 40), st.integers(1, 40), st.integers(0, 1000), st.floats(0.1, 1.0))
def test_any_row_has_no_more_than_its_budget(length, count, seed, share):
    rng = np.random.default_rng(seed)
    maskable = rng.random(length) < 0.8
    maskable[[0, -1]] = False
    starts = maskable & ((rng.random(length) < share) | ~np.roll(maskable, 1))
    places = masking.choose_words(maskable, starts, count, rng)
    assert len(places) <= count
    assert maskable[places].all()
    spans = span_masking.choose_spans(maskable, starts, count, span_masking.SPANBERT, rng)
    places, number = span_masking.places_of(spans)
    assert len(places) == len(set(places.tolist())) <= count
    assert maskable[places].all()
    assert starts[spans[:, 0]].all()
    np.testing.assert_array_equal(spans[number, 0] <= places, True)


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
