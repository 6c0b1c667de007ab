"""Transcription: the decoder reads the transcript shifted right, padding weighs nothing, and a model learns."""

import dataclasses

import jax
import numpy as np
import pytest
import soundfile

import configs
from tests.tool_calls import caller, refuser
from tests.training import runs
from tools import evaluate, generate
from transformer import command
from transformer.data.audio.dataset import SpeechDataset
from transformer.data.audio.log_mel import log_mel
from transformer.data.audio.tones import Tones
from transformer.data.records import stack
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.inference.restored import restore
from transformer.inference.speech.chunks import Chunking, merged
from transformer.inference.speech.errors import (
    Transcribed,
    character_error_rate,
    edit_distance,
    transcribed,
    word_error_rate,
)
from transformer.inference.speech.transcriber import Transcriber
from transformer.inference.speech.windows import GREEDY
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
    session = Session(SMALL)
    record = session.dataset.validation[0]
    empty = {name: np.zeros_like(values) for name, values in record.items()}
    rng = np.random.default_rng(0)
    example = session.example(empty, rng)
    assert not example["weights"].any()
    params = session.initial_state().params
    losses, model = [], SMALL.model.build(SMALL.execution)
    for rows in ([record], [record, empty]):
        batch = stack([session.example(row, rng) for row in rows])
        outputs = model.apply({"params": params}, **batch["inputs"])
        loss, weight, _ = SMALL.objective.loss(outputs, batch)
        losses.append((float(loss), float(weight)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][1] == record["segment_ids"].sum()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of a few steps."""
    folder = tmp_path_factory.mktemp("transcription") / "run"
    runs.train(SMALL, folder)
    return folder


@pytest.mark.exhaustive
def test_a_run_is_trained_resumed_and_transcribes(whole, tmp_path, monkeypatch):
    cut = tmp_path / "cut"
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
    assert character_error_rate(pairs) > 0


@pytest.mark.exhaustive
def test_a_run_is_evaluated_on_its_own_and_on_other_recordings(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "start_jax", lambda **_: None)
    call = caller(evaluate.main, capsys)
    code, said, _ = call(whole, "--metric", "cer", "--limit", 4, "--batch-size", 4)
    assert (code, said.count("\nheard ")) == (0, 3)
    assert "of 4 without an error" in said
    clips = [Tones("train")[index] for index in range(3)]
    for number, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{number}.wav", clip.samples(), 16000)
    rows = [f"{number}.wav\t{clip.transcript}" for number, clip in enumerate(clips)]
    (tmp_path / "others.tsv").write_text("\n".join(rows) + "\n")
    others = ["--path", tmp_path / "others.tsv", "--batch-size", 4]
    _, said, _ = call(whole, "--metric", "loss", "cer", "wer", *others, "--out", tmp_path / "heard.txt")
    assert f"loss on {tmp_path / 'others.tsv'}, {sum(len(clip.transcript) + 1 for clip in clips)} targets" in said
    heard = (tmp_path / "heard.txt").read_text().splitlines()
    errors = sum(edit_distance(clip.transcript, answer) for clip, answer in zip(clips, heard, strict=True))
    rate = 100 * errors / sum(len(clip.transcript) for clip in clips)
    assert f"character error rate {rate:.2f} %" in said
    errors = sum(edit_distance([clip.transcript], answer.split()) for clip, answer in zip(clips, heard, strict=True))
    assert f"word error rate {100 * errors / len(clips):.2f} %  (0 of 3 without an error)" in said
    refused = refuser(call)
    assert "--metric bleu compares answers with targets" in refused(whole, "--metric", "bleu")
    assert "--data.text-field is of text, and the run's" in refused(whole, *others, "--data.text-field", "words")


def test_chunks_are_heard_as_if_alone_and_joined(whole, tmp_path, monkeypatch, capsys):
    """Recordings of many chunks, of one and of silence: the same whatever is heard together, and from a command."""
    restored, rng = restore(whole), np.random.default_rng(0)
    # After a few steps a model says nothing yet; one of random parameters says as much as it may.
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), restored.params)
    restored = dataclasses.replace(restored, params=params)
    transcriber, chunking = Transcriber(restored, log_mel), Chunking(1.1, 0.3)
    long = np.concatenate([Tones("train")[index].samples() for index in range(6)])
    recordings = [long, Tones("train")[7].samples(), np.zeros(16_000, np.float32)]
    want = []
    for samples in recordings:
        chunks = [samples[begin:end] for begin, end in chunking.spans(len(samples), 16_000)]
        want.append(merged([heard.tokens for heard in transcriber(chunks, fallback=GREEDY)]))
    assert want[0] != want[1]
    for batch_size in (1, 4, 20):
        heard = transcriber.in_chunks(recordings, chunking, fallback=GREEDY, batch_size=batch_size)
        assert [transcript.tokens for transcript in heard] == want
    assert [segment.end for segment in heard[0].segments] == [len(long) / 16_000]

    monkeypatch.setattr(command, "start_jax", lambda **_: None)
    monkeypatch.setattr("transformer.inference.restored.restore", lambda *_: restored)
    soundfile.write(tmp_path / "long.wav", long, 16_000, subtype="FLOAT")
    call = caller(generate.main, capsys)
    asked = ["run", "--audio", tmp_path / "long.wav", "--chunk"]
    [transcript] = transcriber.in_chunks([long], chunking)
    assert call(*asked, 1.1, "--stride", 0.3)[:2] == (0, f"{transcript.text}\n")
    assert "--chunk is 1.5: the model hears at most 1.2 s at a time" in refuser(call)(*asked, 1.5)
    with pytest.raises(UserError, match="a recording has no samples"):
        transcriber.in_chunks([long[:0]], chunking)


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
    assert character_error_rate([Transcribed("1234", "1234"), Transcribed("12", "9")]) == pytest.approx(2 / 6)


def test_word_errors_are_of_all_words_together():
    """One replaced, two inserted; however long a word and the space between two are."""
    pairs = [Transcribed("ten of  clubs", "ten off clubs "), Transcribed("five", "a five\tno")]
    assert [pair.word_errors for pair in pairs] == [1, 2]
    assert word_error_rate(pairs) == pytest.approx(3 / 4)
    assert word_error_rate([Transcribed("", "")]) == 0
