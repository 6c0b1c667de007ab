"""Evaluation of saved weights."""

import dataclasses
from collections.abc import Callable

import jax
from etils import epath

from transformer import checkpoint
from transformer.adapters.config import AdapterConfig
from transformer.data.dataset import Dataset
from transformer.parallel.mesh import MeshConfig
from transformer.training.evaluation import Evaluation
from transformer.training.experiment import Experiment
from transformer.training.session import Session


def evaluate_checkpoint(
    experiment: Experiment,
    path: epath.PathLike,
    *,
    whole: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Evaluation, Dataset]:
    """Evaluates the weights that `path` names, a run or a checkpoint, on all validation records and on all devices.

    Returns:
      The evaluation, and the dataset; with `whole`, all of it is validated on.

    Raises:
      UserError: there is no checkpoint, or the data cannot be read.
    """
    all_batches = dataclasses.replace(experiment.train, eval_batches=None)
    # The weights that are restored are whole: an adapter's are merged into its base's.
    experiment = dataclasses.replace(experiment, train=all_batches, mesh=MeshConfig(), adapter=AdapterConfig())
    saved = checkpoint.find(path)
    tokenizer_dir = saved / "record" / "tokenizer"
    session = Session(
        experiment, tokenizer_dir=tokenizer_dir if tokenizer_dir.exists() else None, whole=whole, trains=False
    )
    with jax.set_mesh(session.mesh):
        about = session.dataset.about
        for note in (*about.notes, *about.validation):
            report(note)
        _, params = checkpoint.restore_model(saved, session.mesh)
        return session.evaluate(params), session.dataset
