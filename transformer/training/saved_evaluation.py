"""Evaluation of saved weights."""

import dataclasses
from collections.abc import Callable

import jax
from etils import epath

from transformer import checkpoint
from transformer.data.prepare import Corpora
from transformer.sharding import MeshConfig
from transformer.training.evaluation import Evaluation
from transformer.training.experiment import Experiment
from transformer.training.session import Session


def evaluate_checkpoint(
    experiment: Experiment,
    path: epath.PathLike,
    *,
    whole: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Evaluation, Corpora]:
    """Evaluates the weights of a run or a checkpoint on all of the validation text, on all devices.

    Returns:
      The evaluation, and the corpus; with `whole`, all of the corpus is validation text.

    Raises:
      UserError: there is no checkpoint, or the data cannot be read.
    """
    all_batches = dataclasses.replace(experiment.train, eval_batches=None)
    experiment = dataclasses.replace(experiment, train=all_batches, mesh=MeshConfig())
    saved = checkpoint.find(path)
    tokenizer_dir = saved / "record" / "tokenizer"
    session = Session(
        experiment, tokenizer_dir=tokenizer_dir if tokenizer_dir.exists() else None, whole=whole, trains=False
    )
    with jax.set_mesh(session.mesh):
        for note in session.dataset.notes:
            report(note)
        if left_out := sum(records.left_out for records in session.dataset.validation.parts):
            report(f"{left_out:,} pairs are left out of the loss: they are longer than a row")
        _, params = checkpoint.restore_model(saved, session.mesh)
        return session.evaluate(params), session.dataset
