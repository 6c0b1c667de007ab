"""A tiny run with checkpoints, made without training: what the tests of the checkpoint tool look at."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checkpoint
from transformer.checkpoint import CheckpointConfig, Checkpoints, to_json
from transformer.models import architecture_to_dict
from transformer.models.gpt import GPTConfig
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training import experiment as experiments
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.program import Program

MODEL = GPTConfig(vocab_size=32, context_length=8, width=8, num_layers=2, num_heads=2, dropout=0.0)
EXPERIMENT = Experiment(
    name="tiny",
    model=MODEL,
    optimizer=OptimizerConfig(name="adamw"),
    train=TrainConfig(steps=4, batch_size=8, seq_len=8),
)
RECORD = {
    "architecture.json": to_json(architecture_to_dict(MODEL)),
    "experiment.json": to_json(experiments.to_dict(EXPERIMENT)),
    "tokenizer/tokenizer.json": b"{}",
}


def program(mesh):
    """The experiment's program on a mesh."""
    return Program(EXPERIMENT, mesh)


def random_tree(abstract, seed):
    """Random arrays, laid out as the ShapeDtypeStructs say."""
    rng = np.random.default_rng(seed)

    def make(leaf):
        values = rng.normal(size=leaf.shape) * 10 if leaf.dtype == jnp.float32 else rng.integers(0, 9, leaf.shape)
        return jax.device_put(np.asarray(values, leaf.dtype), leaf.sharding)

    return jax.tree.map(make, abstract)


def make_run(folder, *, mesh=MeshConfig(data=1), steps=(1, 2, 3), record=RECORD):
    """Writes a run folder; returns step -> (params, the rest of the state), as they were saved."""
    abstract = program(make_mesh(mesh)).abstract
    saved = {}
    with Checkpoints(folder / "checkpoints", CheckpointConfig(keep=9)) as checkpoints:
        for step in steps:
            params = random_tree(abstract.params, step)
            rest = random_tree(dataclasses.replace(abstract, params=None), 100 + step)
            saved[step] = params, rest
            checkpoints.save(step, params=params, opt_state=rest, data={"step": step}, record=record)
            outcome = checkpoints.outcome(wait=True)
            assert outcome is not None
            assert outcome.failure is None
    for name, content in record.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n')
    return saved


def params_of(path):
    """A run's weights, in float32."""
    return checkpoint.restore_model(checkpoint.find(path), make_mesh(MeshConfig(data=1)))[1]


def damage(folder):
    """Cuts the largest file of a checkpoint's weights in half."""
    path = max((folder / "params").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
