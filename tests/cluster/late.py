"""Scenes of a run of which a process is late or fails: late.py FOLDER ACT PHASE PROCESS.

ACT is what the process does in the phase: `sleep`, `stop` (itself: alive but stuck), `debug`, `raise` (a bug) or
`refuse`. It prints "acting" first. Each phase but that one has its usual deadline.
"""

import dataclasses
import io
import os
import pdb
import signal
import sys
import time
from unittest import mock

from tests.cluster import scenes
from transformer import command
from transformer.checkpoint import CheckpointConfig
from transformer.cluster import phases
from transformer.cluster.agreement import alone, own_index
from transformer.cluster.config import ClusterConfig, Deadlines
from transformer.errors import UserError
from transformer.parallel.mesh import MeshConfig
from transformer.training import beginning, loop, program, restoring, saving, session
from transformer.training.experiment import TrainConfig

DEADLINE = 4.0
ACT, PHASE, PROCESS = sys.argv[2], sys.argv[3], int(sys.argv[4])
PLACES = {
    "start": (beginning, "inspect"),
    "restore": (restoring, "first_state"),
    "compile": (program.Program, "compile_step"),
    "data": (session, "_placed_ahead"),
    "step": (program.Program, "step"),
    "save": (saving.Saver, "_save"),
    "evaluation": (session, "evaluate"),
}
"""Phase -> what to call in it for the process to act first."""


def act() -> None:
    assert phases.current().name == PHASE, phases.current()
    print("acting", flush=True)
    if ACT == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif ACT == "raise":
        raise ZeroDivisionError("a bug")
    elif ACT == "refuse":
        raise UserError("the input of this one is bad")
    elif ACT == "debug":
        pdb.Pdb(stdin=SlowPerson(), stdout=sys.stderr).set_trace()
    else:
        sleeper()


class SlowPerson(io.StringIO):
    """What a person types who looks at a process for longer than its deadline."""

    def readline(self, *_) -> str:
        time.sleep(2 * DEADLINE + 3)
        return "continue\n"


def sleeper() -> None:
    time.sleep(600)


def acts_first(place, name: str):
    """A patch of a function or a generator that acts first; of the step, it acts at the third update."""
    before, calls = getattr(place, name), []

    def patched(*args, **options):
        calls.append(name)
        if PHASE == "step" and len(calls) < 3:
            return before(*args, **options)
        if len(calls) == 1 or (PHASE == "step" and len(calls) == 3):
            act()
        return before(*args, **options)

    def generator(*args):
        for number, item in enumerate(before(*args)):
            if number == 2 and not calls and phases.current().name == "data":
                calls.append(name)
                act()
            yield item

    return mock.patch.object(place, name, generator if PHASE == "data" else patched)


def main() -> None:
    deadlines = Deadlines(**{PHASE: DEADLINE})
    command.start_jax(distributed=int(os.environ["JAX_NUM_PROCESSES"]) > 1, deadlines=deadlines)
    changes = {
        "cluster": ClusterConfig(deadlines),
        "checkpoint": CheckpointConfig(every=2 if PHASE == "save" else 100),
        "train": TrainConfig(steps=6, batch_size=8, seq_len=32, eval_every=4, eval_batches=1, log_every=1),
    }
    if alone():
        changes["mesh"] = MeshConfig()
    usual = dataclasses.replace(scenes.experiment(), **changes)
    if own_index() == PROCESS and PHASE in PLACES:
        acts_first(*PLACES[PHASE]).start()
    loop.train(usual, scenes.FOLDER / "run")
    if own_index() == PROCESS and PHASE == "exit":
        act()


if __name__ == "__main__":
    sys.exit(command.run(main))
