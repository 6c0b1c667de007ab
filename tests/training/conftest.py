"""A tiny experiment on a tiny text, which whole runs are made of."""

import pytest

from tools.crash import write_corpus
from transformer.checkpoint import CheckpointConfig
from transformer.data.config import DataConfig
from transformer.models.gpt import GPTConfig
from transformer.sharding import MeshConfig
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    folder = tmp_path_factory.mktemp("text") / "corpus"
    write_corpus(folder)
    return Experiment(
        name="tiny",
        model=GPTConfig(vocab_size=384, context_length=64, width=16, num_layers=2, num_heads=2, dropout=0.1),
        data=DataConfig(
            path=str(folder),
            tokenizer="bytes",
            validation_fraction=0.2,
            cache_dir=str(tmp_path_factory.mktemp("cache")),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        train=TrainConfig(steps=12, batch_size=8, seq_len=32, eval_every=4, eval_batches=2, log_every=1),
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every=4),
    )
