"""Training on images: the same batches from any number of workers, the same losses from any number of processes."""

import json

import jax
import numpy as np
import pytest

from tests import processes
from tests.data.images.pictures import class_folders
from transformer.data import pipeline
from transformer.data.images.config import ImagesConfig
from transformer.data.images.records import ImageReading
from transformer.data.kinds import open_dataset
from transformer.objectives.image_classification import ImageClassification
from transformer.objectives.objective import ExampleMaker

VARIED = {"crop": (0.3, 1.0), "flip": 0.5, "randaugment": 2, "mixup": 0.4, "cutmix": 1.0}


@pytest.fixture
def root(tmp_path):
    return class_folders(tmp_path / "images", {"cat": 12, "dog": 12})


def test_workers_make_the_same_batches(root):
    data = ImagesConfig(path=str(root), **VARIED)
    dataset = open_dataset(data, ImageReading(), vocab_size=None, input_size=(8, 8, 3))
    maker = ExampleMaker(ImageClassification(), 2)
    batches = pipeline.train_batches(dataset.train, dataset.weights, example=maker, batch_size=4, seed=3)
    with pipeline.iterate(batches, 3) as alone, pipeline.iterate(batches, 3, workers=2) as shared:
        for _ in range(8):  # past an epoch
            jax.tree.map(np.testing.assert_array_equal, next(alone), next(shared))


def losses(folder, root, count):
    """Returns the losses of a short run of so many processes."""
    workdir = folder / f"run-{count}"
    args = [
        str(processes.ROOT / "train.py"), "vit-digits", "--workdir", str(workdir), "--data.path", str(root),
        "--data.crop", "0.3", "1.0", "--data.flip", "0.5", "--data.cache-dir", str(folder / "cache"),
        "--model.width", "16", "--model.num-heads", "2", "--model.mlp-width", "32", "--model.num-layers", "2",
        "--model.num-labels", "2", "--train.steps", "4", "--train.batch-size", "4", "--train.log-every", "1",
        "--train.eval-every", "4", "--mesh.data", str(count), *(["--distributed"] if count > 1 else []),
    ]  # fmt: skip
    ended = processes.run(args, count)
    assert [one.code for one in ended] == [0] * count, ended[-1].err
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [value for row in rows for name, value in sorted(row.items()) if name.endswith("loss")]


@pytest.mark.exhaustive
def test_two_processes_train_as_one(root, tmp_path):
    alone, both = losses(tmp_path, root, 1), losses(tmp_path, root, 2)
    assert len(alone) >= 5
    np.testing.assert_allclose(both, alone, rtol=1e-5)
