"""Transcription: the decoder reads the transcript shifted right, padding weighs nothing, and a model learns."""

import dataclasses

import numpy as np
import pytest

import configs
from tests.training import runs
from transformer.data.audio.dataset import SpeechDataset
from transformer.data.records import stack
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.inference.restored import restore
from transformer.inference.speech.errors import Transcribed, character_errors, edit_distance, transcribed
from transformer.objectives.causal_lm import CausalLM
from transformer.training.session import Session

TONES = configs.get("whisper-tones")
SMALL = dataclasses.replace(
    TONES,
    model=dataclasses.replace(
        TONES.model, width=16, num_encoder_layers=1, num_decoder_layers=1, num_encoder_heads=2, num_decoder_heads=2,
        encoder_mlp_width=32, decoder_mlp_width=32,
    ),
    train=dataclasses.replace(TONES.train, steps=12, batch_size=8, eval_every=6, eval_batches=2, log_every=1),
    optimizer=dataclasses.replace(TONES.optimizer, warmup_steps=0, schedule="constant"),
    checkpoint=dataclasses.replace(TONES.checkpoint, every=6),
)  # fmt: skip


def test_the_decoder_reads_the_transcript_shifted_right():
    session = Session(TONES)
    assert isinstance(session.dataset, SpeechDataset)
    record = session.dataset.validation[1]
    example = session.example(record, np.random.default_rng(0))
    inputs, tokens, eos = example["inputs"], record["tokens"], session.dataset.vocabulary.eos
    count = int(record["segment_ids"].sum())
    assert tokens[count - 1] == eos
    assert 3 <= count < 8
    assert inputs["decoder_tokens"][:count].tolist() == [1, *tokens[: count - 1]]
    assert inputs["decoder_positions"][:count].tolist() == [*range(count)]
    assert not any(inputs[f"decoder_{name}"][count:].any() for name in ("tokens", "positions", "segment_ids"))
    np.testing.assert_array_equal(inputs["features"], record["features"])
    np.testing.assert_array_equal(example["targets"], tokens)
    assert example["weights"].tolist() == [1.0] * count + [0.0] * (8 - count)


def test_padding_weighs_nothing():
    session = Session(TONES)
    record = session.dataset.validation[0]
    empty = {name: np.zeros_like(values) for name, values in record.items()}
    rng = np.random.default_rng(0)
    example = session.example(empty, rng)
    assert not example["weights"].any()
    params = session.initial_state().params
    losses, model = [], TONES.model.build(TONES.execution)
    for rows in ([record], [record, empty]):
        batch = stack([session.example(row, rng) for row in rows])
        outputs = model.apply({"params": params}, **batch["inputs"])
        loss, weight, _ = TONES.objective.loss(outputs, batch)
        losses.append((float(loss), float(weight)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][1] == record["segment_ids"].sum()


def test_a_run_is_trained_resumed_and_transcribes(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    runs.train(SMALL, whole)
    losses = runs.losses(whole)
    assert losses[12] < losses[1] - 1
    runs.stopped(SMALL, cut, monkeypatch, after=5)
    runs.train(SMALL, cut)
    assert runs.losses(cut) == losses

    dataset = Session(SMALL).dataset
    assert isinstance(dataset, SpeechDataset)
    pairs = list(transcribed(restore(whole), dataset, limit=5, batch_size=2))
    assert [pair.transcript for pair in pairs] == [dataset.show(dataset.validation[i])[0] for i in range(5)]
    assert pairs == list(transcribed(restore(whole), dataset, limit=5, batch_size=5))
    assert character_errors(pairs) > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": TextConfig(path="a.txt")}, "the objective reads no text, which --data is"),
        ({"objective": CausalLM()}, "the objective causal_lm trains a decoder, and whisper is"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        _ = Session(dataclasses.replace(TONES, **change)).dataset


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("", "", 0), ("12", "12", 0), ("123", "13", 1), ("13", "123", 1), ("kitten", "sitting", 3), ("", "99", 2)],
)
def test_edits_are_counted(one, other, distance):
    assert edit_distance(one, other) == edit_distance(other, one) == distance


def test_errors_are_of_all_characters_together():
    assert character_errors([Transcribed("1234", "1234"), Transcribed("12", "9")]) == pytest.approx(2 / 6)
