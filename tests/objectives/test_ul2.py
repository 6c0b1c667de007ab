"""UL2: the paper's seven denoisers, as often as it says, in rows of one shape, and texts that can be put together."""

import dataclasses

import numpy as np
import pytest

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.objectives import UL2, SpanCorruption
from transformer.objectives.objective import Setting
from transformer.objectives.ul2 import Suffix
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.tokenizers.vocabulary import Vocabulary

from .test_encoder_decoder import fill, rows
from .world import EOS, FIRST, SENTINELS, SIZE, VOCABULARY, examples, make_store, records, setting

STORE = make_store([int(n) for n in np.random.default_rng(3).integers(20, 900, 100)])
R, S, X = SENTINELS[-3:]
# Tay et al. 2022, table 1: which kind, mean span (None: to the text's end), corruption rate.
TABLE = [(R, 3, 0.15), (R, 8, 0.15), (S, None, 0.25), (X, 3, 0.5), (X, 8, 0.5), (X, 64, 0.15), (X, 64, 0.5)]
ALONE = {"regular": R, "sequential": S, "extreme": X}


def only(kind, **fields):
    return UL2(**{name: float(name == kind) for name in ALONE}, **fields)


def taken_apart(example, objective, seq_len):
    """The kind, how many tokens the text has, how many of them are noise, and in how many spans."""
    source, target = rows(example)
    assert example["inputs"]["tokens"].shape == (seq_len,)
    assert example["targets"].shape == (objective.target_length(seq_len),)
    assert source[-1] == target[-1] == EOS
    spans = [token for token in source[1:] if token in SENTINELS]
    assert spans == [token for token in target if token in SENTINELS] == list(SENTINELS[: len(spans)])
    text = fill(source[1:-1].copy(), target[:-1].copy())
    return source[0], np.array(text), len(target) - len(spans) - 1, len(spans)


def test_the_denoisers_are_the_papers_and_as_likely():
    found = []
    for kind, denoiser, share in UL2().mixture:
        assert share == pytest.approx(1 / 7, rel=1e-12)
        if isinstance(denoiser, Suffix):
            found.append(((R, S, X)[kind], None, denoiser.density))
        else:
            found.append(((R, S, X)[kind], denoiser.mean_span, denoiser.density))
    assert found == TABLE


@pytest.mark.parametrize("seq_len", [32, 64, 256])
def test_a_text_can_be_put_together_again(seq_len):
    cut = records(UL2(), seq_len, STORE)
    kinds = set()
    for number, example in enumerate(examples(UL2(), seq_len, STORE, 150)):
        record = cut[number % len(cut)]["tokens"]
        kind, text, noise, spans = taken_apart(example, UL2(), seq_len)
        kinds.add(kind)
        starts = np.flatnonzero(record[: len(record) - len(text) + 1] == text[0])
        assert any(np.array_equal(record[start : start + len(text)], text) for start in starts)
        assert any(
            fits(text, noise, spans, mean, rate) for paradigm, mean, rate in TABLE if paradigm == kind
        ), (kind, len(text), noise, spans)  # fmt: skip
        used = int((example["inputs"]["segment_ids"] > 0).sum())
        if kind != S and spans < len(SENTINELS) - 3:  # full but for a token that would have needed two places
            assert used >= seq_len - 1
    assert kinds == {R, S, X}


def fits(text, noise, spans, mean, rate):
    if mean is None:
        return spans == 1 and 1 <= noise <= rate * 2 * len(text) + 1
    return abs(noise - rate * len(text)) <= 0.5 and abs(spans - max(1, noise / mean)) <= 0.5


@pytest.mark.parametrize("weights", [(2, 1, 4), (0.4, 0.2, 0.4), (1, 0, 3)])
def test_each_denoiser_is_taken_as_often_as_its_weight_says(weights):
    """At 1,024 tokens the seven differ in how much they hide, and in how many spans; 2,000 draws: at most 1 % each."""
    regular, sequential, extreme = map(float, weights)
    objective = UL2(regular=regular, sequential=sequential, extreme=extreme)
    at = Setting(dataclasses.replace(VOCABULARY, sentinels=tuple(range(7, 1007))), 1024, 0)
    record = {"tokens": np.full(objective.reading(1024).length, FIRST + 1500, np.int32)}
    record["segment_ids"] = np.ones_like(record["tokens"])
    counts = dict.fromkeys(TABLE, 0)
    for seed in range(2000):
        example = objective.example(record, np.random.default_rng(seed), at)
        length = int((example["inputs"]["tokens"] == FIRST + 1500).sum())
        noise = int(((example["targets"] == FIRST + 1500) & (example["weights"] > 0)).sum())
        spans = int(example["weights"].sum()) - noise - 1
        kind = int(example["inputs"]["tokens"][0]) - 1004
        [row] = [
            row for row in TABLE if row[0] == (R, S, X)[kind] and fits(np.zeros(length + noise), noise, spans, *row[1:])
        ]
        counts[row] += 1
    wanted = dict(zip((R, S, X), np.array(weights) / sum(weights), strict=True))
    sizes = {R: 2, S: 1, X: 4}
    for kind, _, share in objective.mixture:
        assert share == pytest.approx(wanted[(R, S, X)[kind]] / sizes[(R, S, X)[kind]], rel=1e-12)
    for row, count in counts.items():
        assert count / 2000 == pytest.approx(wanted[row[0]] / sizes[row[0]], abs=0.03), row


def test_the_end_of_a_text_is_a_quarter_of_it_on_average():
    """Uniform from 1 token to half of the text: a relative standard error of 1 %."""
    found = examples(only("sequential"), 512, STORE, 3000)
    noise = np.array([example["weights"].sum() for example in found]) - 2  # the sentinel and </s>
    assert {taken_apart(example, only("sequential"), 512)[0] for example in found[:20]} == {S}
    assert {len(taken_apart(example, only("sequential"), 512)[1]) for example in found[:20]} == {510}
    assert noise.mean() / 510 == pytest.approx(0.25, rel=0.03)
    assert noise.min() == 1
    assert noise.max() == 510 - round(509 / 2)
    assert noise.std() == pytest.approx(noise.max() / 12**0.5, rel=0.03)


@pytest.mark.parametrize("kind", ALONE)
def test_one_kind_alone(kind):
    objective = only(kind)
    for example in examples(objective, 64, STORE, 30):
        assert taken_apart(example, objective, 64)[0] == ALONE[kind]
    assert objective.target_length(512) == {"regular": 114, "sequential": 258, "extreme": 512}[kind]


def test_a_share_of_the_rows_is_padding():
    """The docstring's figure."""
    at = setting(256)
    full = Setting(dataclasses.replace(at.vocabulary, sentinels=tuple(range(7, 107))), 256, 0)
    cut, places, used = records(UL2(), 256, STORE), 0, 0.0
    for seed in range(1500):
        example = UL2().example(cut[seed % len(cut)], np.random.default_rng(seed), full)
        places += len(example["weights"]) + 256
        used += example["weights"].sum() + (example["inputs"]["segment_ids"] > 0).sum()
    assert 1 - used / places == pytest.approx(0.24, abs=0.01)


def test_the_inputs_do_not_depend_on_what_they_hide():
    length = UL2().reading(64).length
    record = {"tokens": np.arange(FIRST, FIRST + length, dtype=np.int32), "segment_ids": np.ones(length, np.int32)}
    for seed in range(60):
        before = UL2().example(record, np.random.default_rng(seed), setting(64))
        hidden = before["targets"][(before["weights"] > 0) & (before["targets"] >= FIRST)]
        other = dict(zip(hidden.tolist(), np.roll(hidden, 1).tolist(), strict=True))
        changed = np.array([other.get(token, token) for token in record["tokens"].tolist()], np.int32)
        after = UL2().example(record | {"tokens": changed}, np.random.default_rng(seed), setting(64))
        for name in ("tokens", "positions", "segment_ids", "decoder_positions", "decoder_segment_ids"):
            np.testing.assert_array_equal(before["inputs"][name], after["inputs"][name])
        assert len(hidden) == 1 or (before["targets"] != after["targets"]).any()


@pytest.mark.parametrize(("kind", "pieces"), few([("regular", 4), ("sequential", 4), ("extreme", 3)], ("extreme", 3)))
def test_all_of_a_record_is_read_as_often_but_where_pieces_overlap(kind, pieces):
    record = {"tokens": np.arange(FIRST, FIRST + 1000, dtype=np.int32), "segment_ids": np.ones(1000, np.int32)}
    times, lengths = np.zeros(1000), []
    for seed in range(500):
        objective = only(kind)
        text = taken_apart(objective.example(record, np.random.default_rng(seed), setting(256)), objective, 256)[1]
        assert (np.diff(text) == 1).all()
        times[text - FIRST] += 1
        lengths.append(len(text))
    assert times.sum() / 500 == np.mean(lengths)
    # The ends of the record are in one piece only, the first or the last.
    for end in (times[:50], times[-50:]):
        assert end.mean() / 500 == pytest.approx(1 / pieces, abs=0.06)
    assert times.min() / 500 > 0.6 / pieces


def test_equal_generators_give_equal_examples():
    for one, again in zip(examples(UL2(), 64, STORE, 20), examples(UL2(), 64, STORE, 20), strict=True):
        for name, array in one["inputs"].items():
            np.testing.assert_array_equal(array, again["inputs"][name])


def test_a_short_tail_and_padding():
    length = UL2().reading(64).length
    for tokens in (0, 1, 2, 3, 9):
        used = np.arange(length) < tokens
        record = {"tokens": np.where(used, FIRST, 0).astype(np.int32), "segment_ids": used.astype(np.int32)}
        for seed in range(20):
            example = UL2().example(record, np.random.default_rng(seed), setting(64))
            if tokens < 2:
                assert rows(example)[1].size == 0
            else:
                assert len(taken_apart(example, UL2(), 64)[1]) == tokens


def test_no_span_lacks_a_sentinel():
    """Half of 512 tokens in spans of 3 are 128 spans: the text is shorter where there are 97 sentinels, or 29."""
    objective = only("extreme")
    assert SpanCorruption(density=0.5, mean_span=3.0).sizes(766).spans == 128
    spans = [taken_apart(example, objective, 512)[3] for example in examples(objective, 512, STORE, 60)]
    assert max(spans) == len(SENTINELS) - 3
    without = dataclasses.replace(VOCABULARY, sentinels=SENTINELS[:3])
    with pytest.raises(UserError, match=r"has 3 sentinels \(<extra_id_0>, ...\) and ul2 needs at least 4"):
        UL2().check(Setting(without, 64))
    UL2().check(Setting(dataclasses.replace(without, sentinels=SENTINELS[:4]), 64))


def test_the_tokenizers_own_tokens_say_which_kind():
    named = dataclasses.replace(VOCABULARY, paradigms=(SIZE - 3, SIZE - 2, SIZE - 1))
    cut, firsts, spans = records(UL2(), 64, STORE), set(), set()
    for seed in range(60):
        example = UL2().example(cut[seed % len(cut)], np.random.default_rng(seed), Setting(named, 64, 0))
        firsts.add(int(example["inputs"]["tokens"][0]))
        spans |= set(example["inputs"]["tokens"][1:].tolist()) & set(SENTINELS)
    assert firsts == {SIZE - 3, SIZE - 2, SIZE - 1}


def test_a_vocabulary_knows_the_kinds_by_name():
    ids = {"[NLU]": 300, "[S2S]": 301, "[NLG]": 302}

    class Named(ByteTokenizer):
        def special_id(self, name):
            return ids[name] if name in ids else super().special_id(name)

    assert Vocabulary.of(Named()).paradigms == (300, 301, 302)
    assert Vocabulary.of(ByteTokenizer()).paradigms == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regular": -1.0}, "regular is -1.0: it must be at least 0"),
        ({"regular": 0.0, "sequential": 0.0, "extreme": 0.0}, "one of them must be above it"),
        ({"z_loss": -1.0}, "z_loss is -1.0"),
    ],
)
def test_impossible_mixtures_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        UL2(**fields)


def test_a_row_that_is_too_short_is_refused():
    with pytest.raises(UserError, match="train.seq_len 8 is too short for ul2"):
        UL2().reading(8)
    assert UL2().reading(9).length >= 7
