"""A tiny experiment of every family, and batches of it: packed rows, with padding on either side."""

import dataclasses

import numpy as np

from transformer.objectives.causal_lm import CausalLM
from transformer.objectives.contrastive import Contrastive
from transformer.objectives.image_classification import ImageClassification
from transformer.objectives.masked_lm import MaskedLM
from transformer.objectives.seq2seq import Seq2Seq
from transformer.objectives.transcription import Transcription
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig

ROWS, LENGTH, TARGETS, MASKED, WORDS = 8, 16, 12, 4, 32
_ENCODERS = {
    "bert": MaskedLM(sentence="nsp"),
    "albert": MaskedLM(sentence="sop"),
    "spanbert": MaskedLM(choose="spans", boundary=True),
}


def experiment_of(model, *, objective=None, optimizer=None, execution=None, **train):
    """Returns a model's experiment with its family's objective, all of whose updates have the peak learning rate."""
    usual = {
        "decoder": CausalLM(),
        "encoder": _ENCODERS.get(model.family, MaskedLM()),
        "encoder_decoder": Seq2Seq(target_len=TARGETS),
        "speech": Transcription(),
        "image_encoder": ImageClassification(label_smoothing=0.1),
        "two_towers": Contrastive("sigmoid" if model.family == "siglip" else "softmax", chunk=3),
    }
    return Experiment(
        "tiny",
        model,
        usual[model.kind] if objective is None else objective,
        optimizer=optimizer or OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup_steps=0),
        train=dataclasses.replace(TrainConfig(steps=100, batch_size=ROWS, seq_len=LENGTH), **train),
        **({} if execution is None else {"execution": execution}),
    )


def batch_of(model, seed=0, *, rows=ROWS, length=LENGTH, prefix=False):
    """Returns a batch of the family's objective: weights differ from row to row, and so do the documents' ends."""
    rng = np.random.default_rng(seed)
    if model.kind == "image_encoder":
        images = rng.normal(size=(rows, *model.input_size)).astype(np.float32)
        targets = rng.dirichlet(np.ones(model.num_labels), rows).astype(np.float32)
        return {"inputs": {"images": images}, "targets": targets, "weights": np.linspace(0, 1, rows, dtype=np.float32)}
    if model.kind == "speech":
        ends = rng.integers(2, length, (rows, 1))
        segments = (np.arange(length)[None] <= ends).astype(np.int32)
        inputs = {
            "features": rng.normal(size=(rows, *model.input_size)).astype(np.float32),
            "decoder_tokens": rng.integers(0, WORDS, (rows, length)).astype(np.int32),
            "decoder_positions": np.arange(length, dtype=np.int32) * segments,
            "decoder_segment_ids": segments,
        }
        targets = rng.integers(0, WORDS, (rows, length)).astype(np.int32)
        return {"inputs": inputs, "targets": targets, "weights": segments.astype(np.float32)}
    if model.kind == "two_towers":
        images = rng.normal(size=(rows, *model.input_size)).astype(np.float32)
        ends = rng.integers(2, length, (rows, 1))
        segments = (np.arange(length)[None] <= ends).astype(np.int32)
        tokens = np.where(segments, rng.integers(0, WORDS - 1, (rows, length)), 0).astype(np.int32)
        np.put_along_axis(tokens, ends, WORDS - 1, axis=1)
        inputs = {"images": images, "tokens": tokens, "segment_ids": segments}
        there = (np.arange(rows) < rows - 1).astype(np.float32)
        return {"inputs": inputs, "targets": np.zeros(rows, np.int32), "weights": there}
    index = np.arange(length)[None]
    cut, end = rng.integers(2, length - 4, (rows, 1)), rng.integers(length - 4, length + 1, (rows, 1))
    segments = np.where(index < cut, 1, np.where(index < end, 2, 0)).astype(np.int32)
    segments[rows // 2 :] = segments[rows // 2 :, ::-1]  # padding on the left, and documents that do not count upwards
    starts = np.maximum.accumulate(np.where(np.diff(segments, prepend=-1), index, 0), axis=1)
    inputs = {
        "tokens": rng.integers(0, WORDS, (rows, length)).astype(np.int32),
        "positions": (index - starts).astype(np.int32),
        "segment_ids": segments,
    }
    if prefix:
        inputs["prefix"] = (inputs["positions"] < 3).astype(np.int32)
    if model.kind == "encoder_decoder":
        inputs |= {
            "decoder_tokens": rng.integers(0, WORDS, (rows, TARGETS)).astype(np.int32),
            "decoder_positions": np.tile(np.arange(TARGETS, dtype=np.int32), (rows, 1)),
            "decoder_segment_ids": np.minimum(segments[:, 2 : 2 + TARGETS], 1),
        }
        inputs["segment_ids"] = np.minimum(segments, 1)
    slots = {"decoder": length, "encoder": MASKED, "encoder_decoder": TARGETS}[model.kind]
    places = rng.integers(0, length, (4, rows, slots)).astype(np.int32)
    extra = {}
    if model.kind == "encoder":
        inputs["masked_positions"] = places[0]
    if model.family in ("bert", "albert"):
        inputs["token_types"] = (segments > 1).astype(np.int32)
        extra["sentence_targets"] = rng.integers(0, 2, rows).astype(np.int32)
    if model.family == "spanbert":
        inputs |= {"boundary_left": places[1], "boundary_right": places[2], "boundary_offset": places[3] % 4}
    targets = rng.integers(0, WORDS, (rows, slots)).astype(np.int32)
    weights = (rng.random((rows, slots)) < 0.8).astype(np.float32)
    return {"inputs": inputs, "targets": targets, "weights": weights, **extra}
