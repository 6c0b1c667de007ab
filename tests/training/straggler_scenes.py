"""Two processes that train together, of which one is slow: straggler_scenes.py FOLDER KIND:PROCESS ..."""

import contextlib
import json
import sys
import time
from pathlib import Path
from unittest import mock

from tools.crash import write_corpus
from transformer import command
from transformer.checkpoint import CheckpointConfig
from transformer.cluster.agreement import exchange, own_index
from transformer.data.text.config import TextConfig
from transformer.models.gpt import GPTConfig
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig

FOLDER = Path(sys.argv[1])
SLOW = 0.2
"""Seconds that the slow one loses in each step."""
SECONDS = 4.0
"""Seconds that a run takes, more or less: eight looks, of which two in a row name a straggler."""


def experiment() -> Experiment:
    if own_index() == 0 and not (FOLDER / "corpus").exists():
        write_corpus(FOLDER / "corpus")
    exchange("corpus", None)
    steps = round(SECONDS / SLOW)
    return Experiment(
        name="tiny",
        model=GPTConfig(vocab_size=384, context_length=32, width=16, num_layers=1, num_heads=2),
        data=TextConfig(path=str(FOLDER / "corpus"), tokenizer="bytes", cache_dir=str(FOLDER / "cache")),
        optimizer=OptimizerConfig(warmup_steps=0, schedule="constant"),
        train=TrainConfig(steps=steps, batch_size=8, seq_len=32, eval_every=steps, eval_batches=1, log_every=100),
        mesh=MeshConfig(data=2),
        checkpoint=CheckpointConfig(every=steps),
    )


@contextlib.contextmanager
def slow(kind: str, index: int):
    """A context in which one process is slow; where none is, both wait for their data alike."""
    from transformer.training import progress, session

    place, step = session.BatchLayout.place, progress.Progress.step
    waits_for_data = kind == "none" or (kind == "data" and index == own_index())

    def placed(self, batch):
        if waits_for_data and len(batch["targets"]) > 1:
            time.sleep(SLOW)
        return place(self, batch)

    def stepped(self, number, metrics):
        step(self, number, metrics)
        if kind == "python" and index == own_index():
            time.sleep(SLOW)

    with mock.patch.object(session.BatchLayout, "place", placed), mock.patch.object(progress.Progress, "step", stepped):
        yield


def main() -> None:
    command.start_jax(distributed=True)
    from transformer.training import loop, stragglers

    said = {}
    for scene in sys.argv[2:]:
        kind, index = scene.split(":")
        lines: list[str] = []
        with (
            slow(kind, int(index)),
            mock.patch.multiple(stragglers, EVERY=SECONDS / 8, LASTS=SECONDS / 4, SHARE=0.3),
        ):
            loop.train(experiment(), FOLDER / scene.replace(":", "-"), report=lines.append)
        said[scene] = [line for line in lines if "has been the slowest" in line]
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    sys.exit(command.run(main))
