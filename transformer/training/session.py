"""Session: an experiment made ready on today's devices; what the loop, a replay, a probe and a benchmark share."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import jax
from etils import epath
from jax.sharding import Mesh

from transformer import checkpoint
from transformer.checkpoint import reading
from transformer.checkpoint.adapted import merged
from transformer.cluster.agreement import together
from transformer.cluster.joining import require_all
from transformer.data import pipeline
from transformer.data.chats.config import ChatConfig
from transformer.data.dataset import Dataset
from transformer.data.examples.config import ExamplesConfig
from transformer.data.kinds import open_dataset
from transformer.data.pipeline import MakeExample
from transformer.data.text.config import TextConfig
from transformer.data.text.dataset import TextDataset
from transformer.distillation.config import TeacherConfig
from transformer.distillation.teacher import shared_tokenizer
from transformer.errors import UserError
from transformer.objectives.objective import ExampleMaker
from transformer.parallel.layout import BatchLayout
from transformer.parallel.mesh import make_mesh
from transformer.parallel.pipeline import Pipeline, pipeline_on
from transformer.params import flatten, name_of, unflatten
from transformer.tokenizers.kinds import load_tokenizer
from transformer.training.dividing import check_attention, check_batch, check_kernels
from transformer.training.evaluation import Evaluation, evaluate
from transformer.training.experiment import Experiment
from transformer.training.frozen import BASE, Frozen
from transformer.training.program import Program
from transformer.training.state import Batch, TrainState
from transformer.transfer import weights as transfer


class Session:
    """An experiment's mesh, program, dataset and batches. Each is made when it is first used, and once.

    What runs on the devices is to be called in the mesh: `with jax.set_mesh(session.mesh)`.

    Args:
      experiment: what to make ready.
      tokenizer_dir: where the tokenizer is, of a model that reads tokens; None: that of the weights that the experiment
        starts from, or of its teacher, or else the dataset decides.
      dataset: what to read, if it is open already; None: what the experiment names.
      whole: all of the dataset is to validate on, and there is nothing to train on.
      trains: whether its program is to train; if not, it may compute in float16, and has no teacher.

    Raises:
      UserError: what is to be trained is computed in float16.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        tokenizer_dir: epath.PathLike | None = None,
        dataset: Dataset | None = None,
        whole: bool = False,
        trains: bool = True,
    ):
        if trains and experiment.execution.dtype == "float16":
            raise UserError(
                "--execution.dtype float16 does not train: gradients leave its range, which ends at 65,504, and losses "
                "are not scaled to keep them in it: choose bfloat16, which has the range of float32 (float16 is for "
                "inference)"
            )
        # What only scores a model has nothing to learn.
        self.experiment = experiment if trains else dataclasses.replace(experiment, teacher=TeacherConfig())
        self._tokenizer_dir, self._whole = tokenizer_dir, whole
        if dataset is not None:
            self.dataset = dataset

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices; raises UserError where there are too few, or where they do not divide rows and lengths."""
        return mesh_for(self.experiment)

    @functools.cached_property
    def layer_pipeline(self) -> Pipeline | None:
        """How layers are run in an update; None: without a pipeline."""
        return pipeline_on(self.mesh, self.experiment.execution.microbatches, self.experiment.train.microbatch_size)

    @functools.cached_property
    def program(self) -> Program:
        """What the experiment computes; raises UserError for a parameter that the mesh does not divide."""
        return Program(self.experiment, self.mesh)

    @property
    def frozen(self) -> Frozen:
        """What the program reads and never changes, loaded when it is first asked for; in no checkpoint of the run."""
        return self.program.frozen

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The records; raises UserError for a tokenizer that lacks a special, or anything about the data."""
        experiment = self.experiment
        dataset = open_dataset(
            experiment.data,
            experiment.objective.reading(experiment.train.seq_len),
            vocab_size=experiment.model.vocab_size,
            input_size=experiment.model.input_size,
            tokenizer=self._tokenizer(),
            whole=self._whole,
        )
        self._example(dataset)  # which refuses what the objective cannot read
        return dataset

    @functools.cached_property
    def example(self) -> MakeExample:
        """The objective's `example`, for this dataset, this length and this model."""
        return self._example(self.dataset)

    @functools.cached_property
    def layout(self) -> BatchLayout:
        """Which rows of an update's batch this process makes."""
        return BatchLayout(self.mesh, self.experiment.train.batch_size)

    @functools.cached_property
    def training_rows(self) -> grain.MapDataset:
        """Update number, from 0 -> this process's rows of its batch, in numpy."""
        return pipeline.train_batches(
            self.dataset.train,
            self.dataset.weights,
            example=self.example,
            batch_size=self.experiment.train.batch_size,
            seed=self.experiment.train.seed,
            copies=self.experiment.objective.copies,
            skip=self.experiment.train.skip_samples,
            rows=self.layout.rows,
        )

    def batch(self, step: int) -> Batch:
        """Returns the batch of update number `step`, 1 for the first, on the devices."""
        rows: Any = self.training_rows
        return self.layout.place(rows[step - 1])

    @contextlib.contextmanager
    def batches(self, start: int = 0, *, workers: int = 0) -> Iterator[Iterator[Batch]]:
        """Gives the batches of the updates that come after `start` others, on the devices.

        Args:
          start: updates that were made before.
          workers: processes that make the rows; 0: a thread of this one.
        """
        with pipeline.iterate(self.training_rows, start, workers=workers) as rows:
            yield _placed_ahead(rows, self.layout)

    @contextlib.contextmanager
    def validation(self) -> Iterator[Iterator[Batch]]:
        """Gives the batches of an evaluation, on the devices: the first `eval_batches` of the validation records."""
        train = self.experiment.train
        layout = BatchLayout(self.mesh, train.microbatch_size)
        rows = pipeline.eval_batches(
            self.dataset.validation, example=self.example, batch_size=layout.batch_size, rows=layout.rows
        )
        with pipeline.iterate(rows, 0) as batches:
            yield _placed_ahead(itertools.islice(batches, train.eval_batches), layout)

    @property
    def validation_batches(self) -> tuple[int, int]:
        """How many batches an evaluation reads, and how many the validation records make."""
        train = self.experiment.train
        total = -(-len(self.dataset.validation) // train.microbatch_size)
        return min(total, train.eval_batches or total), total

    def evaluate(self, params: Any, through: Callable[[Iterable[Batch]], Iterable[Batch]] = iter) -> Evaluation:
        """Evaluates weights on the batches of `validation`, which pass `through` a function on their way."""
        with self.validation() as batches:
            evaluation, predictions = evaluate(self.program.evaluate, params, through(batches))
        if predictions:
            count = min(len(self.dataset.validation), len(next(iter(predictions.values()))))
            known = {name: values[:count] for name, values in predictions.items()}
            scores = self.experiment.objective.score(known, self.dataset, self.experiment.model)
            evaluation = dataclasses.replace(evaluation, metrics=evaluation.metrics | scores, predictions=known)
        if not isinstance(self.dataset, TextDataset):
            return evaluation
        figures, scores_text = self.dataset.figures, self.experiment.objective.scores_text
        return evaluation.of_tokens(figures.targets_per_byte if scores_text else None)

    def weights(self, params: Any) -> Any:
        """Returns the model's weights, of what is trained: an adapter's, merged into its base."""
        adapter = self.program.adapter
        return params if adapter is None else merged(adapter, params, self.frozen[BASE], self.mesh)

    def initial_state(self, report: Callable[[str], None] = lambda line: None) -> TrainState:
        """Returns the state before the first update, with the weights that the experiment starts from.

        Args:
          report: gets a few lines that name what is taken of other weights.
        """
        state, init = self.program.init(), self.experiment.init
        if init.path is None or not init.weights:
            return state
        with together("looking at the weights to start from"):
            reading.check(checkpoint.find(init.path))
        adapter, model = self.program.adapter, self.experiment.model
        if adapter is None:
            params = transfer.transferred(init, model, state.params, self.mesh, report)
            return dataclasses.replace(state, params=params)
        fresh = flatten(state.params)
        whole = {}
        if adapter.whole:
            whole = transfer.transferred(init, model, state.params, self.mesh, report, only=adapter.whole)
        lengths = {path: leaf.sharding for path, leaf in fresh.items() if name_of(path) == "lora_magnitude"}
        measured = jax.jit(adapter.measured, out_shardings=lengths)(self.frozen[BASE])
        return dataclasses.replace(state, params=unflatten({**fresh, **flatten(whole), **measured}))

    def _tokenizer(self) -> Any:
        """Returns the tokenizer that is decided already; None: the dataset decides, or the model reads no tokens."""
        vocab_size = self.experiment.model.vocab_size
        if vocab_size is None:
            return None
        experiment, tokenizer = self.experiment, None
        data = experiment.data if isinstance(experiment.data, TextConfig | ExamplesConfig | ChatConfig) else None
        if self._tokenizer_dir is not None:
            tokenizer = load_tokenizer(str(self._tokenizer_dir))
        elif experiment.init.path is not None and data is not None:
            tokenizer = transfer.tokenizer_for(experiment.init, experiment.model, data)
        if experiment.teacher.path is None:
            return tokenizer
        return shared_tokenizer(experiment.teacher, tokenizer, "" if data is None else data.tokenizer, vocab_size)

    def _example(self, dataset: Dataset) -> ExampleMaker:
        objective, model = self.experiment.objective, self.experiment.model
        setting = objective.setting(dataset, self.experiment.train.seq_len, model)
        seq_len = self.experiment.train.seq_len
        return ExampleMaker(objective, setting, objective.text_length(seq_len))


def mesh_for(experiment: Experiment, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the experiment's mesh on `devices`, all of this job by default.

    Raises:
      UserError: there are too few, or some are left over in a job of several processes; they do not divide rows and
        lengths, lack a kernel that was chosen by name, or split attention that cannot be.
    """
    mesh = make_mesh(experiment.mesh, devices)
    if devices is None:
        require_all(mesh.size)
    check_kernels(experiment, mesh)
    check_batch(experiment, mesh)
    check_attention(experiment, mesh)
    return mesh


def _placed_ahead(batches: Iterable[Batch], layout: BatchLayout) -> Iterator[Batch]:
    """Puts this process's rows on its devices, a batch ahead of the one that is asked for."""
    ahead = None
    for batch in batches:
        placed = layout.place(batch)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
