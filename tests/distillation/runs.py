"""A tiny teacher on disk, and the experiment of a student that learns from it."""

import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from tests.tiny_models import random_params
from tools.crash import write_corpus
from transformer import checkpoint
from transformer.checkpoint import CheckpointConfig, to_json
from transformer.data.text.config import TextConfig
from transformer.distillation.config import TeacherConfig
from transformer.models import architecture_to_dict
from transformer.models.bert import BertConfig
from transformer.models.distilbert import DistilBertConfig
from transformer.objectives import MaskedLM
from transformer.parallel.mesh import MeshConfig
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.transfer.config import InitConfig

SIZES = {"vocab_size": 384, "context_length": 32, "width": 16, "num_heads": 2, "mlp_width": 32}
TEACHER = BertConfig(**SIZES, num_layers=4, head="pretraining")
STUDENT = DistilBertConfig(**SIZES, num_layers=2)


def write_teacher(run, architecture=TEACHER, tokenizer=ByteTokenizer(), *, step=0):
    """Writes a checkpoint of random weights, with its tokenizer if there is one."""
    record = {"architecture.json": to_json(architecture_to_dict(architecture))}
    if tokenizer is not None:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(folder)
            record |= {f"tokenizer/{path.name}": path.read_bytes() for path in Path(folder).iterdir()}
    params = jax.tree.map(jnp.asarray, random_params(architecture))
    checkpoint.save_params(run / "checkpoints" / str(step), params, record)


def experiment_of(folder, teacher, **train):
    """A student of every second layer on a text, six updates by default, with dropout."""
    if not (folder / "corpus").exists():
        write_corpus(folder / "corpus")
    return Experiment(
        name="tiny",
        model=STUDENT,
        objective=MaskedLM(),
        data=TextConfig(
            path=str(folder / "corpus"), tokenizer="bytes", validation_fraction=0.2, cache_dir=str(folder / "cache")
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup_steps=0),
        train=dataclasses.replace(
            TrainConfig(steps=6, batch_size=8, seq_len=32, eval_every=6, eval_batches=2, log_every=1), **train
        ),
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every=3),
        init=InitConfig(str(teacher), layers=(0, 2), leaves="(?!backbone/type_embedding).*"),
        teacher=TeacherConfig(str(teacher)),
    )
