"""Fine-tuning on pairs (summaries, translations) against PyTorch: rows of several pairs learn what pairs alone do."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from tests.exhaustive import few
from tests.interop import parity
from transformer.data.text.config import TextConfig
from transformer.interop.bart import BART
from transformer.interop.t5 import T5
from transformer.models.bart import BartConfig
from transformer.models.t5 import T5Config
from transformer.objectives.seq2seq import Seq2Seq
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.session import Session

STEPS = 20
SIZES = {"vocab_size": 400, "width": 24, "num_encoder_layers": 2, "num_decoder_layers": 1, "dropout": 0.0}
BART_SIZES = {
    "context_length": 64, "num_encoder_heads": 2, "num_decoder_heads": 3, "encoder_mlp_width": 40,
    "decoder_mlp_width": 20, "attention_dropout": 0.0, "mlp_dropout": 0.0, "decoder_start_id": 2,
}  # fmt: skip
MODELS = {
    "bart": (BART, BartConfig(**SIZES, **BART_SIZES), True),
    "t5": (T5, T5Config(**SIZES, num_heads=2, head_width=7, mlp_width=40), False),
}


@pytest.fixture(scope="module", params=few(MODELS, "bart"))
def session(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*"abcde"], size=int(rng.integers(1, 9)))) for _ in range(400)]
    rows = [f"{word} {number}\t{word[::-1]}" for number, word in enumerate(words)]
    (folder / "pairs.tsv").write_text("source\ttarget\n" + "\n".join(rows))
    data = TextConfig(path=str(folder / "pairs.tsv"), tokenizer="bytes", cache_dir=str(folder / "cache"))
    data = dataclasses.replace(data, fields=("source", "target"))
    _, model, begin = MODELS[request.param]
    optimizer = OptimizerConfig(
        learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=0.0, b2=0.999, clip_norm=None
    )
    objective = Seq2Seq(label_smoothing=0.0, begin=begin)
    train = TrainConfig(steps=STEPS, batch_size=4, seq_len=40)
    return Session(Experiment(request.param, model, objective, data, optimizer, train=train, mesh=MeshConfig(data=1)))


def pairs_of(batch):
    """Returns the pairs of a batch, each in a row of its own: sources, their mask, and targets with -100 behind."""
    arrays = jax.tree.map(np.asarray, batch)
    inputs, found = arrays["inputs"], []
    for row in range(len(arrays["targets"])):
        for number in range(1, inputs["segment_ids"][row].max() + 1):
            source = inputs["tokens"][row][inputs["segment_ids"][row] == number]
            target = arrays["targets"][row][inputs["decoder_segment_ids"][row] == number]
            found.append((torch.tensor(source).long(), torch.tensor(target).long()))
    pad = torch.nn.utils.rnn.pad_sequence
    masks = [torch.ones_like(source) for source, _ in found]
    return {
        "input_ids": pad([source for source, _ in found], batch_first=True),
        "attention_mask": pad(masks, batch_first=True),
        "labels": pad([target for _, target in found], batch_first=True, padding_value=-100),
    }


def test_twenty_steps_equal_pytorchs(session):
    family, model, _ = MODELS[session.experiment.name]
    pair = parity.make_pair(family, model, pad_token_id=0, decoder_start_token_id=model.decoder_start_id)
    theirs = pair.theirs.train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.0)
    with jax.set_mesh(session.mesh), session.batches() as batches:
        state = dataclasses.replace(session.program.init(), params=pair.params)
        for _ in range(STEPS):
            batch = next(batches)
            asked = pairs_of(batch)
            assert len(asked["labels"]) > 4  # several in a row
            loss = theirs(**asked).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state, metrics = session.program.step(state, batch)
            assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-4)
        with torch.no_grad():
            want = theirs.eval()(**asked).loss
        sums = session.program.evaluate(state.params, batch).sums
        assert float(sums.metrics["nll"] / sums.weight) == pytest.approx(want.item(), rel=1e-4)
