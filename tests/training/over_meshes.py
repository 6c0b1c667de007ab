"""A tiny run on one mesh after another, by however many processes there are: what `test_processes` starts.

Prints a line of JSON a mesh: its losses and its evaluation, and the rows of a batch that this process needs.
"""

import json
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.sharding import AxisType, Mesh

from transformer.checkpoint import CheckpointConfig
from transformer.data.text.config import TextConfig
from transformer.models.gpt import GPTConfig
from transformer.parallel.layout import BatchLayout
from transformer.parallel.mesh import MESH_AXES, MeshConfig, make_mesh
from transformer.training import loop, session
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.metrics import read_rows
from transformer.training.optimizer import OptimizerConfig

STEPS, BATCH = 3, 8


def experiment(corpus: Path, cache: Path, mesh: MeshConfig) -> Experiment:
    return Experiment(
        name="tiny",
        model=GPTConfig(vocab_size=384, context_length=32, width=16, num_layers=1, num_heads=4, dropout=0.1),
        data=TextConfig(path=str(corpus), tokenizer="bytes", validation_fraction=0.2, cache_dir=str(cache)),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
        train=TrainConfig(
            steps=STEPS, batch_size=BATCH, seq_len=16, eval_every=STEPS, eval_batches=2, log_every=1, accumulation=2
        ),
        mesh=mesh,
        checkpoint=CheckpointConfig(every=1000),
    )


def interleaved(config: MeshConfig, devices: None = None) -> Mesh:
    """A mesh of all devices on which the processes' take turns, so that a process's rows do not lie together."""
    sizes = tuple(getattr(config, axis) for axis in MESH_AXES)
    by_process = [jax.local_devices(process) for process in range(jax.process_count())]
    devices = np.array(list(zip(*by_process, strict=True)))
    return Mesh(devices.reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def run(folder: str, meshes: list[dict[str, int]], runs: str) -> None:
    """Trains on each mesh, in a folder of its own under `runs`, on the `corpus/` of `folder`.

    A mesh with `alternate` has the processes' devices take turns.
    """
    for number, mesh in enumerate(meshes):
        sizes = {axis: size for axis, size in mesh.items() if axis != "alternate"}
        make = interleaved if "alternate" in mesh else make_mesh
        session.make_mesh = make
        workdir = Path(runs) / str(number)
        config = MeshConfig(**{"data": 1, **sizes})
        result = loop.train(
            experiment(Path(folder) / "corpus", Path(folder) / "cache", config), workdir, report=lambda _: None
        )
        compiled = next(iter(result.session.program._compiled_steps.values()), None)  # of several processes
        rows = read_rows(epath.Path(workdir / "metrics.jsonl"))
        record = {
            "mesh": mesh,
            "losses": [row[name] for row in rows for name in ("loss", "eval_loss") if name in row],
            "grad_norms": [row["grad_norm"] for row in rows if "loss" in row],
            "rows": BatchLayout(make(config), BATCH).rows.tolist(),
            "reduce_scatters": 0 if compiled is None else compiled.as_text().count(" reduce-scatter("),  # type: ignore
        }
        print(json.dumps(record), flush=True)
