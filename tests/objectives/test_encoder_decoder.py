"""Span corruption and denoising: exact lengths, the papers' rates, and texts that can be put together again."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.errors import UserError
from transformer.layers.heads import LanguageModelOutput
from transformer.objectives import Denoising, SpanCorruption
from transformer.objectives.denoising import infill, shuffle_sentences
from transformer.objectives.span_corruption import noise_mask, replace_spans

from .world import BOS, EOS, FIRST, MASK, SENTINELS, VOCABULARY, examples, make_store, records, setting

STORE = make_store([int(n) for n in np.random.default_rng(3).integers(20, 900, 100)])


def rows(example):
    """The encoder's tokens and the targets, without padding; and what every example must keep."""
    inputs, weights = example["inputs"], example["weights"]
    source = inputs["tokens"][inputs["segment_ids"] > 0]
    target = example["targets"][weights > 0]
    for side, length in (("", len(source)), ("decoder_", len(target))):
        used = np.arange(len(inputs[f"{side}tokens"])) < length
        np.testing.assert_array_equal(inputs[f"{side}segment_ids"], used)
        np.testing.assert_array_equal(inputs[f"{side}positions"], np.arange(len(used)) * used)
        np.testing.assert_array_equal(inputs[f"{side}tokens"][~used], VOCABULARY.pad)
    np.testing.assert_array_equal(inputs["decoder_tokens"][1 : len(target)], target[:-1])
    assert {array.dtype for array in [*inputs.values(), example["targets"]]} == {np.dtype(np.int32)}
    assert weights.dtype == np.float32
    return source, target


# From T5's released code: `compute_input_and_target_lengths` / `random_spans_helper` at 15 % and a mean of 3.
@pytest.mark.parametrize(
    ("seq_len", "text", "target"), [(512, 568, 114), (256, 284, 58), (128, 141, 29), (1024, 1137, 229)]
)
def test_lengths_are_t5s(seq_len, text, target):
    assert SpanCorruption().text_length(seq_len) == text
    assert SpanCorruption().target_length(seq_len) == target


@given(st.integers(8, 2000), st.sampled_from([0.05, 0.15, 0.3, 0.5]), st.sampled_from([1.0, 3.0, 8.0]))
def test_rows_are_exactly_full(seq_len, density, mean_span):
    objective = SpanCorruption(density=density, mean_span=mean_span)
    length = objective.text_length(seq_len)
    assert objective.sizes(length).inputs == seq_len
    assert objective.sizes(length + 1).inputs > seq_len


@pytest.mark.parametrize("seq_len", [32, 100, 256])
def test_sentinels_filled_in_give_the_text_back(seq_len):
    objective = SpanCorruption()
    cut = records(objective, seq_len, STORE)
    for number, example in enumerate(examples(objective, seq_len, STORE, 60)):
        text = cut[number % len(cut)]["tokens"]
        source, target = rows(example)
        assert (len(source), len(target)) == (seq_len, objective.target_length(seq_len))  # no padding at all
        assert example["inputs"]["decoder_tokens"][0] == 0
        assert source[-1] == target[-1] == EOS
        np.testing.assert_array_equal(fill(source[:-1], target[:-1]), text)
        spans = objective.sizes(len(text)).spans
        assert [t for t in source if t in SENTINELS] == list(SENTINELS[:spans])
        assert [t for t in target if t in SENTINELS] == list(SENTINELS[:spans])
        assert target[0] == SENTINELS[0]


def fill(source, target):
    said: dict[int, list[int]] = {}
    for token in target.tolist():
        if token in SENTINELS:
            said[token] = []
            spot = said[token]
        else:
            spot.append(token)
    return [t for token in source.tolist() for t in said.get(token, [token])]


def test_noise_is_fifteen_percent_in_spans_of_three_wherever():
    objective = SpanCorruption()
    sizes = objective.sizes(568)
    assert (sizes.noise, sizes.spans) == (85, 28)
    masks = np.stack([noise_mask(568, sizes, np.random.default_rng(seed)) for seed in range(3000)])
    assert (masks.sum(axis=1) == 85).all()
    begins = masks[:, 1:] & ~masks[:, :-1]
    assert (begins.sum(axis=1) == 28).all()
    assert not masks[:, 0].any()
    assert masks[:, -1].all()
    # All compositions are as likely, so a span's first part is 1 with probability (spans - 1) / (noise - 1).
    first = [int(np.argmin(mask[np.argmax(mask) :])) for mask in masks]
    assert np.mean(np.array(first) == 1) == pytest.approx(27 / 84, abs=0.03)
    assert np.mean(masks[:, 100:468]) == pytest.approx(85 / 568, rel=0.02)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_text_is_its_two_halves(noise):
    noise, tokens = np.array(noise), np.arange(1000, 1000 + len(noise), dtype=np.int32)
    sentinels = np.arange(100, dtype=np.int32)
    for half in (noise, ~noise):
        *kept, eos = replace_spans(tokens, half, sentinels, 5000).tolist()
        assert eos == 5000
        kept = np.array(kept)
        np.testing.assert_array_equal(kept[kept >= 1000], tokens[~half])
        assert sorted(kept[kept < 1000]) == list(range(int((np.diff(half, prepend=False) & half).sum())))


def test_a_short_tail_and_padding():
    objective = SpanCorruption()
    cut = records(objective, 64, make_store([70 + 3]), drop_remainder=False)
    assert len(cut) == 2
    source, target = rows(objective.example(cut[1], np.random.default_rng(0), setting(64, 9)))
    assert len(source) + len(target) == 3 + 2 + 2  # three tokens, a sentinel and </s> on both sides
    padding = {name: np.zeros_like(value) for name, value in cut[0].items()}
    for padded, other in ((objective, padding), (Denoising(), {n: v[:62] for n, v in padding.items()})):
        source, target = rows(padded.example(other, np.random.default_rng(0), setting(64)))
        assert len(source) == len(target) == 0


def test_the_inputs_of_span_corruption_do_not_depend_on_what_they_hide():
    objective = SpanCorruption()
    record = records(objective, 64, STORE)[0]
    before = objective.example(record, np.random.default_rng(1), setting(64))
    hidden = noise_mask(70, objective.sizes(70), np.random.default_rng(1))
    changed = record | {"tokens": np.where(hidden, record["tokens"][::-1], record["tokens"])}
    after = objective.example(changed, np.random.default_rng(1), setting(64))
    for name in ("tokens", "positions", "segment_ids"):
        np.testing.assert_array_equal(before["inputs"][name], after["inputs"][name])
    assert (before["targets"] != after["targets"]).any()


def test_infilling_takes_thirty_percent_in_poisson_spans():
    tokens = np.arange(FIRST, FIRST + 1000, dtype=np.int32)
    masks, kept, inserted = [], [], 0
    for seed in range(400):
        found = infill(tokens, 0.3, 3.0, MASK, np.random.default_rng(seed))
        rest = found[found != MASK]
        assert (np.diff(rest) > 0).all()  # in order, each once
        kept.append(len(rest))
        masks.append(int((found == MASK).sum()))
        # A mask between neighbours stands for nothing; 7/8 of the places beside it are tokens.
        before, after = found[:-2], found[2:]
        inserted += int(((found[1:-1] == MASK) & (after == before + 1)).sum())
    assert set(kept) == {700}
    # 300 tokens in spans of 3 on average, those of none among them; the last one is cut.
    assert np.mean(masks) == pytest.approx(100, rel=0.02)
    assert inserted / sum(masks) == pytest.approx(np.exp(-3) * (7 / 8) ** 2, rel=0.05)


@given(st.integers(1, 40), st.floats(0.01, 0.99), st.floats(1, 6), st.integers(0, 300))
def test_infilling_never_makes_a_text_longer(length, rate, mean_span, seed):
    tokens = np.arange(FIRST, FIRST + length, dtype=np.int32)
    found = infill(tokens, rate, mean_span, MASK, np.random.default_rng(seed))
    assert len(found) <= length
    assert (found != MASK).sum() == length - round(rate * length)


def test_sentences_are_shuffled_whole():
    rng = np.random.default_rng(0)
    end = VOCABULARY.size - 1
    sentences = [[*rng.integers(FIRST, 1000, rng.integers(1, 9)), end] for _ in range(6)] + [[50, 51]]
    tokens = np.concatenate(sentences)
    orders = set()
    for seed in range(300):
        found = shuffle_sentences(tokens, VOCABULARY, np.random.default_rng(seed))
        assert sorted(found) == sorted(tokens)
        text = found.tolist()
        places = [next(i for i in range(len(text)) if text[i : i + len(s)] == s) for s in map(list, sentences)]
        orders.add(tuple(np.argsort(places)))
    assert len(orders) > 250


def test_each_corruption_is_a_switch():
    plain = {"permute_sentences": False, "infill": 0.0}
    cut = records(Denoising(), 64, STORE)

    def source(objective, number=0):
        example = objective.example(cut[number], np.random.default_rng(number), setting(64))
        found, target = rows(example)
        np.testing.assert_array_equal(target, [BOS, *cut[number]["tokens"], EOS])
        assert (found[0], found[-1]) == (BOS, EOS)
        return found[1:-1]

    text = cut[0]["tokens"]
    np.testing.assert_array_equal(source(Denoising(**plain)), text)
    rotated = source(Denoising(**plain | {"rotate": True}))
    shift = next(i for i in range(62) if np.array_equal(np.roll(text, -i), rotated))
    assert shift
    shifts = [source(Denoising(**plain | {"rotate": True}), i)[0] != cut[i]["tokens"][0] for i in range(30)]
    assert np.mean(shifts) > 0.8
    deleted = source(Denoising(**plain | {"delete": 0.25}))
    assert len(deleted) == 62 - round(0.25 * 62)
    positions = iter(text)
    assert all(token in positions for token in deleted)  # a subsequence
    infilled = source(Denoising(**plain | {"infill": 0.3}))
    assert (infilled != MASK).sum() == 62 - round(0.3 * 62)
    shuffled = source(Denoising(**plain | {"permute_sentences": True}), 3)
    assert sorted(shuffled) == sorted(cut[3]["tokens"])
    everything = Denoising(rotate=True, delete=0.1)
    assert len(source(everything)) < 62
    assert everything.target_length(64) == 64


def test_the_decoder_begins_with_the_models_own_id():
    example = Denoising().example(records(Denoising(), 32, STORE)[0], np.random.default_rng(0), setting(32, EOS))
    assert example["inputs"]["decoder_tokens"][:2].tolist() == [EOS, BOS]


def test_the_loss_is_that_of_a_plain_formula():
    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(size=(3, 14, 8)), rng.normal(size=(60, 8))
    batch = {
        "targets": rng.integers(0, 60, (3, 14)).astype(np.int32),
        "weights": (np.arange(14) < np.array([[14], [9], [0]])).astype(np.float32),
    }
    logits = hidden @ kernel.T
    scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    nll = -np.take_along_axis(scores, batch["targets"][..., None], axis=-1)[..., 0]
    outputs = LanguageModelOutput(jnp.asarray(hidden, jnp.float32), jnp.asarray(kernel, jnp.float32))
    loss_sum, weight, metrics = SpanCorruption(label_smoothing=0.1, z_loss=1e-2).loss(outputs, batch)
    smooth = 0.9 * nll - 0.1 * scores.mean(axis=-1) + 1e-2 * np.log(np.exp(logits).sum(axis=-1)) ** 2
    assert float(weight) == 23
    assert float(loss_sum) == pytest.approx((smooth * batch["weights"]).sum(), rel=1e-5)
    assert float(metrics["nll"]) == pytest.approx((nll * batch["weights"]).sum(), rel=1e-5)


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match=r"--train.seq-len 1024 has 57 spans and the tokenizer 32 sentinels"):
        SpanCorruption().check(setting(1024))
    with pytest.raises(UserError, match=r"density is 0.9"):
        SpanCorruption(density=0.9)
    with pytest.raises(UserError, match=r"train.seq_len 4 is too short"):
        SpanCorruption().reading(4)
    with pytest.raises(UserError, match=r"infill is 1.0"):
        Denoising(infill=1.0)
    without = dataclasses.replace(setting(64), vocabulary=dataclasses.replace(VOCABULARY, mask_id=None))
    with pytest.raises(UserError, match=r"\[MASK\], <mask>"):
        Denoising().check(without)
    Denoising(infill=0).check(without)
