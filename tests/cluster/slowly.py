"""train.py with steps that take $STEP_SECONDS more than they need, so that a test finds a tiny run in its middle.

What it says at the end, which compiles a program of its own, is left out.
"""

import os
import sys
import time
from unittest import mock

import train
from transformer import command
from transformer.training.progress import Progress


def main() -> None:
    step = Progress.step

    def slow(self, number, metrics):
        step(self, number, metrics)
        time.sleep(float(os.environ.get("STEP_SECONDS", "0.1")))

    with mock.patch.object(Progress, "step", slow), mock.patch.object(train, "report"):
        train.main(sys.argv[1:])


if __name__ == "__main__":
    command.end(command.run(main))
