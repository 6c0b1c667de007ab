"""Scenes of two processes that train together, of which one sees what the other does not: scenes.py FOLDER SCENE ...

Each process prints a line a scene: how it ended there. What ends a process comes last.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from unittest import mock

from tools.crash import write_corpus
from transformer import command
from transformer.checkpoint import CheckpointConfig
from transformer.cluster.agreement import exchange, own_index
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.models.gpt import GPTConfig
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig

FOLDER = Path(sys.argv[1])


def experiment(**changes) -> Experiment:
    if own_index() == 0 and not (FOLDER / "corpus").exists():
        write_corpus(FOLDER / "corpus")
    exchange("corpus", None)
    usual = Experiment(
        name="tiny",
        model=GPTConfig(vocab_size=384, context_length=32, width=16, num_layers=1, num_heads=2),
        data=TextConfig(path=str(FOLDER / "corpus"), tokenizer="bytes", cache_dir=str(FOLDER / "cache")),
        optimizer=OptimizerConfig(warmup_steps=0, schedule="constant"),
        train=TrainConfig(steps=6, batch_size=8, seq_len=32, eval_every=100, eval_batches=1, log_every=1),
        mesh=MeshConfig(data=2),
        checkpoint=CheckpointConfig(every=2),
    )
    return dataclasses.replace(usual, **changes)


def train(name: str, *, fatal: bool = False, **changes) -> str:
    """Returns how the training ended, and the lines about trouble; raises an error that is `fatal`."""
    from transformer.training import loop

    said: list[str] = []
    try:
        result = loop.train(experiment(**changes), FOLDER / name, report=said.append)
        ended = f"step {result.step}"
    except UserError as error:
        if fatal:
            raise
        ended = str(error)
    return " | ".join([*(line for line in said if "could not" in line or "set aside" in line), ended])


def data() -> str:
    """A file that is not text, on the machine of the second process alone."""
    if own_index() == 1:
        write_corpus(FOLDER / "broken")
        (FOLDER / "broken" / "07.txt").write_bytes(b"a\xff\xfe\n" * 200)
    path = FOLDER / ("corpus" if own_index() == 0 else "broken")
    return train("data", data=dataclasses.replace(experiment().data, path=str(path)))


def other_data() -> str:
    if own_index() == 1:
        write_corpus(FOLDER / "other")
        (FOLDER / "other" / "07.txt").write_text("another text " * 50)
    path = FOLDER / ("corpus" if own_index() == 0 else "other")
    return host_named(train("data", data=dataclasses.replace(experiment().data, path=str(path))))


def flags() -> str:
    return host_named(train("flags", train=dataclasses.replace(experiment().train, seed=own_index())))


def alike() -> str:
    """Trains to the end, if nothing differs."""
    return train("alike", fatal=True)


def program() -> str:
    """The model of the second process computes something else, which no fingerprint of its files can tell."""
    from transformer.training.program import Program

    loss = Program._loss

    def other_loss(self, *args):
        total, sums = loss(self, *args)
        return total * 1.5, sums

    with mock.patch.object(Program, "_loss", loss if own_index() == 0 else other_loss):
        return host_named(train("program"))


def host_named(line: str) -> str:
    return line.replace(os.uname().nodename, "HOST")


def another_folder() -> str:
    """A --workdir on a disk that each machine has of its own."""
    from transformer.training import lock

    with mock.patch.object(lock, "_SEEN", 0.5):
        return host_named(train(f"own-{own_index()}"))


def no_room(module):
    """A patch of a module, whose writes find no room on their disk."""
    return mock.patch.object(module, "write_atomically", side_effect=OSError(28, "No space left on device"))


def full_folder() -> str:
    """The first process, which records the run, has no room on its disk."""
    from transformer.training import run

    with no_room(run):
        return train("full")


def late() -> str:
    """The first process begins the run folder long before the second one looks."""
    time.sleep(3 * own_index())
    return train("late")


@contextlib.contextmanager
def sixth_damaged():
    """A context in which the second process cannot read the files of checkpoint 6 that Orbax reads."""
    from orbax.checkpoint import v1 as ocp

    load = ocp.load_checkpointables

    def seen(path, abstract):
        if path.name == "6" and own_index() == 1:
            raise OSError(5, "as the second sees it")
        return load(path, abstract)

    with mock.patch.object(ocp, "load_checkpointables", seen):
        yield


def damaged() -> str:
    with sixth_damaged():
        return train("late")


def fallback() -> str:
    with sixth_damaged():
        return train("late", checkpoint=CheckpointConfig(every=2, fallback=True))


_HOT = {
    "optimizer": OptimizerConfig(name="adamw", learning_rate=1e30, warmup_steps=0, schedule="constant"),
    "train": TrainConfig(steps=6, batch_size=8, seq_len=32, eval_every=100, max_skipped=2),
}


def capsule_batch() -> str:
    """The second process cannot read the batch of a step that spiked again."""
    from transformer.debugging.capsule import Capsules

    prepared = Capsules._prepared

    def fails(self, step, state):
        if own_index() == 1:
            raise OSError(5, "Input/output error")
        return prepared(self, step, state)

    with mock.patch.object(Capsules, "_prepared", fails):
        return host_named(train("capsule-batch", **_HOT))


def capsule_disk() -> str:
    """The first process, which writes, has no room on its disk."""
    from transformer.debugging import capsule

    with no_room(capsule):
        return train("capsule-disk", **_HOT)


def record() -> str:
    """A record that the second process cannot read, in the middle of the training."""
    from transformer.training import session

    maker = session.ExampleMaker

    def bad_maker(*args):
        made, example = [], maker(*args)

        def bad(record, rng):
            made.append(record)
            if own_index() == 1 and len(made) == 30:
                raise UserError("record 7 of the store cannot be read")
            return example(record, rng)

        return bad

    with mock.patch.object(session, "ExampleMaker", bad_maker):
        return train("record", fatal=True, train=TrainConfig(steps=5000, batch_size=8, seq_len=32, eval_every=10**6))


def slow_data() -> str:
    """The first process is still preparing its data when something happens to the second."""
    from transformer.training import session

    def slow(*_, **__):
        print("preparing", flush=True)
        time.sleep(90)

    with mock.patch.object(session, "open_dataset", slow):
        return train("slow", fatal=True)


def slow_compilation() -> str:
    from transformer.training.program import Program

    def slow(self, state, batch):
        print("compiling", flush=True)
        time.sleep(90)

    with mock.patch.object(Program, "step", slow):
        return train("compilation", fatal=True)


def stepping() -> str:
    """Trains until something happens."""
    from transformer.training import progress

    step = progress.Progress.step

    def tell(self, number, metrics):
        if number == 5:
            print("stepping", flush=True)
        step(self, number, metrics)

    with mock.patch.object(progress.Progress, "step", tell):
        return train("stepping", fatal=True, train=TrainConfig(steps=10**6, batch_size=8, seq_len=32, eval_every=10**6))


def main() -> None:
    command.start_jax(distributed=True)
    for name in sys.argv[2:]:
        print(json.dumps([name, globals()[name]()]), flush=True)


if __name__ == "__main__":
    sys.exit(command.run(main))
