"""Two processes that train together, of which one is slow for a while: straggler_scenes.py FOLDER KIND:PROCESS ..."""

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

FOLDER, SCENES = Path(sys.argv[1]), sys.argv[2:]
STEPS, SLOW = 20, 0.2
"""Steps of a scene, and the seconds that the slow one loses in each of them."""
EVERY = 0.5
"""Seconds between two looks: eight a scene, of which three in a row name a straggler."""


def experiment() -> Experiment:
    if own_index() == 0 and not (FOLDER / "corpus").exists():
        write_corpus(FOLDER / "corpus")
    exchange("corpus", None)
    steps = STEPS * len(SCENES)
    return Experiment(
        name="tiny",
        model=GPTConfig(vocab_size=384, context_length=32, width=16, num_layers=1, num_heads=2),
        data=TextConfig(path=str(FOLDER / "corpus"), tokenizer="bytes", cache_dir=str(FOLDER / "cache")),
        optimizer=OptimizerConfig(warmup_steps=0, schedule="constant"),
        train=TrainConfig(steps=steps, batch_size=8, seq_len=32, eval_every=steps, eval_batches=1, log_every=100),
        mesh=MeshConfig(data=2),
        checkpoint=CheckpointConfig(every=steps),
    )


class Scenes:
    """What is slow now, by the number of the step; KIND none: both wait for their data alike."""

    def __init__(self) -> None:
        self.scene, self.lines = SCENES[0], {scene: [] for scene in SCENES}

    def report(self, line: str) -> None:
        if "has been the slowest" in line:
            self.lines[self.scene].append(line)

    def slow(self, kind: str) -> None:
        now, index = self.scene.split(":")
        if now == kind and int(index) == own_index():
            time.sleep(SLOW)

    @contextlib.contextmanager
    def played(self):
        """A context in which they are played."""
        from transformer.training import progress, session

        place, step = session.BatchLayout.place, progress.Progress.step

        def placed(layout, batch):
            self.slow("data")
            if self.scene == "none:0":
                time.sleep(SLOW)
            return place(layout, batch)

        def stepped(bar, number, metrics):
            step(bar, number, metrics)
            self.scene = SCENES[min((number - 1) // STEPS, len(SCENES) - 1)]
            self.slow("python")

        with (
            mock.patch.object(session.BatchLayout, "place", placed),
            mock.patch.object(progress.Progress, "step", stepped),
        ):
            yield


def main() -> None:
    command.start_jax(distributed=True)
    from transformer.training import loop, stragglers

    scenes = Scenes()
    with scenes.played(), mock.patch.multiple(stragglers, EVERY=EVERY, LASTS=2 * EVERY, SHARE=0.3):
        loop.train(experiment(), FOLDER / "run", report=scenes.report)
    print(json.dumps(scenes.lines), flush=True)


if __name__ == "__main__":
    sys.exit(command.run(main))
