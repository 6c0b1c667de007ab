"""A tiny training as a command line, for tests of what starts and stops it, and what it should come to."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import ROOT
from tools.crash import write_corpus
from transformer.errors import Interrupted

SAVED_AND_LEFT = Interrupted.exit_code
STEPS = 40
"""Updates of a job that something happens to in its middle."""
TOLERANCE = 1e-5
"""Largest relative difference of a loss between numbers of processes and devices: sums are added in another order."""


def environment(devices: int = 1) -> dict[str, str]:
    """Returns the variables of a process with so many devices."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}


def command(folder: Path, name: str, *more: str, steps: int = STEPS) -> list[str]:
    """Returns the command that trains in `folder/name`; what trainings share lies in `folder` too."""
    corpus = folder / "corpus"
    if not corpus.exists():
        write_corpus(corpus)
    flags = {
        "workdir": folder / name,
        "data.path": corpus,
        "data.tokenizer": "bytes",
        "data.cache-dir": folder / "cache",
        "model.vocab-size": 384,
        "model.width": 16,
        "model.num-layers": 1,
        "model.num-heads": 2,
        "model.context-length": 32,
        "optimizer.learning-rate": 1e-4,
        "train.seq-len": 32,
        "train.batch-size": 8,
        "train.steps": steps,
        "train.eval-every": 10**6,
        "train.eval-batches": 1,
        "train.log-every": 1,
        "checkpoint.every": 10**6,
    }
    given = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
    return [sys.executable, str(ROOT / "tests" / "cluster" / "slowly.py"), "gpt-python", *given, *more]


def rows(run: Path) -> list[dict]:
    """Returns the rows of a run's metrics that are whole."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(run: Path) -> dict[int, float]:
    """Returns step -> loss."""
    return {row["step"]: row["loss"] for row in rows(run) if "loss" in row}


def trained_alone(folder: Path) -> dict[int, float]:
    """Returns the losses of one process with one device, which nobody interrupts."""
    environment_alone = environment() | {"STEP_SECONDS": "0"}
    args = command(folder, "alone")
    done = subprocess.run(args, env=environment_alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return losses(folder / "alone")


def until_step(run: Path, step: int, *, timeout: float = 120) -> None:
    """Waits until a run has made `step` updates."""
    ends = time.monotonic() + timeout
    while max(losses(run), default=0) < step:
        assert time.monotonic() < ends, f"{run}: step {max(losses(run), default=0)}"
        time.sleep(0.1)


def check_saved(run: Path, whole: dict[int, float], *, at_least: int) -> None:
    """Checks that a run which left saved its last step, with the losses of one that nobody interrupted."""
    saved = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    assert saved == max(losses(run)) >= at_least
    assert losses(run) == pytest.approx({step: whole[step] for step in range(1, saved + 1)}, rel=TOLERANCE)
