"""A run whose steps take a twentieth of a second, and which notes when each was made: paced_run.py FOLDER."""

import sys
import time
from pathlib import Path
from unittest import mock

from transformer import command
from transformer.checkpoint import CheckpointConfig
from transformer.data.text.config import TextConfig
from transformer.models.gpt import GPTConfig
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.progress import Progress

STEPS, SAVE_EVERY, SECONDS = 120, 15, 0.05


def main() -> None:
    command.start_jax()
    from transformer.training import loop

    folder = Path(sys.argv[1])
    step = Progress.step

    def paced(self, number, metrics):
        step(self, number, metrics)
        time.sleep(SECONDS)
        with (folder / "steps.txt").open("a") as file:
            file.write(f"{number} {time.time()}\n")

    experiment = Experiment(
        name="paced",
        model=GPTConfig(vocab_size=384, context_length=32, width=16, num_layers=1, num_heads=2),
        data=TextConfig(path=str(folder / "corpus"), tokenizer="bytes", cache_dir=str(folder / "cache")),
        optimizer=OptimizerConfig(warmup_steps=0, schedule="constant"),
        train=TrainConfig(steps=STEPS, batch_size=8, seq_len=32, eval_every=STEPS, eval_batches=1, log_every=10),
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every=SAVE_EVERY),
    )
    with mock.patch.object(Progress, "step", paced):
        loop.train(experiment, folder / "run", whole_process=True)
    (folder / "end.txt").write_text(str(time.time()))


if __name__ == "__main__":
    sys.exit(command.run(main))
