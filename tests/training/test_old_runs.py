"""What an earlier release computed: losses of three presets made tiny, and a run of its that goes on.

`old_run.zip` holds that run: its corpus, and the folder that four updates of `TINY["gpt-python"]` with a dropout of 0.1
left, with its one checkpoint. The losses of presets were printed by an earlier release, without dropout. They hold to
1e-6 and not to the last bit, since XLA's code for a CPU, and with it the order of its sums, depends on which CPU it is.
"""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import train as command
from tests.exhaustive import few
from tests.training.runs import evaluations, losses
from transformer.checkpoint.verifying import verify
from transformer.training import loop

ARCHIVE = Path(__file__).parent / "old_run.zip"
_TRAIN = """--data.tokenizer bytes --train.seq-len 32 --train.batch-size 8 --train.eval-every 4 --train.eval-batches 2
--train.log-every 1 --mesh.data 1 --checkpoint.every 4 --optimizer.schedule constant --optimizer.warmup-steps 2
--model.vocab-size 384 --model.width 16 --model.dropout 0 --train.steps 4"""
_LAYERS = "--model.num-layers 2 --model.num-heads 2 --model.context-length 32"
_SIDES = "--model.num-encoder-layers 1 --model.num-decoder-layers 1 --model.num-heads 2 --model.head-width 8"
TINY = {
    "gpt-python": f"{_TRAIN} {_LAYERS}",
    "bert-python": f"{_TRAIN} {_LAYERS} --model.mlp-width 32 --model.attention-dropout 0",
    "t5-python": f"{_TRAIN} {_SIDES} --model.mlp-width 32",
}
LOSSES = {
    "gpt-python": [5.970710754394531, 5.9733171463012695, 5.792660713195801, 5.4677863121032715, 5.155581474304199],
    "bert-python": [6.646903038024902, 6.661592960357666, 6.586112976074219, 6.4992828369140625, 5.644205729166667],
    "t5-python": [6.221405506134033, 6.027650356292725, 6.155831336975098, 5.968594074249268, 6.02064323425293],
}
"""Preset -> the losses of its updates, the last of the validation part after them."""
ARCHIVED = [5.968496799468994, 5.973178386688232, 5.801110744476318, 5.480224609375]
"""The losses that the archived run recorded: with dropout, of which today's draws differ (a key a row, so that numbers
depend neither on microbatches nor on meshes)."""
WENT_ON = [5.175289154052734, 4.878977298736572, 4.557021141052246]
"""The losses of two more updates of it, today, the last of the validation part after them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def run(folder, *args):
    """Trains as train.py does, without its report; returns the run's losses, and that of its last evaluation."""
    flags = ["--data.path", folder / "corpus", "--data.cache-dir", folder / "cache"]
    chosen = command.parse([str(arg) for arg in [*args, *flags]])
    loop.train(chosen.experiment, chosen.workdir, report=lambda line: None)
    return [*losses(chosen.workdir).values(), *list(evaluations(chosen.workdir).values())[-1:]]


@pytest.mark.parametrize("preset", few(TINY, "gpt-python"))
def test_losses_are_those_of_an_earlier_release(preset, folder, tmp_path):
    found = run(folder, preset, "--workdir", tmp_path / "run", *TINY[preset].split())
    np.testing.assert_allclose(found, LOSSES[preset], rtol=1e-6)


def test_a_run_of_an_earlier_release_goes_on(folder, tmp_path):
    """On its corpus in another place: what it was, it says by its content."""
    shutil.copytree(folder / "run", tmp_path / "run")
    assert verify(tmp_path / "run" / "checkpoints" / "4") == []
    found = run(folder, "--workdir", tmp_path / "run", "--train.steps", 6, "--data.changed", True)
    np.testing.assert_allclose(found[:4], ARCHIVED, rtol=1e-6)
    np.testing.assert_allclose(found[4:], WENT_ON, rtol=1e-6)
