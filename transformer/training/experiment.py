"""Experiment: everything that one run needs, as a frozen record of plain values; JSON both ways."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import cattrs
from cattrs.gen import make_dict_structure_fn
from etils import epath

from transformer import checks, paths
from transformer.adapters.config import AdapterConfig
from transformer.checkpoint import CheckpointConfig
from transformer.checkpoint.compare import differing_fields
from transformer.checkpoint.migration import migrated
from transformer.checks import FieldError
from transformer.cluster.config import ClusterConfig
from transformer.data.dataset import DataConfig
from transformer.data.kinds import KINDS
from transformer.data.text.config import TextConfig
from transformer.distillation.config import TeacherConfig
from transformer.distillation.teacher import pinned
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models import Architecture, architecture_from_dict, architecture_to_dict
from transformer.mup.parametrization import MupConfig, scaling
from transformer.objectives import OBJECTIVES, Objective
from transformer.objectives.causal_lm import CausalLM
from transformer.parallel.mesh import MeshConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.transfer.config import InitConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, batch and cadence of a run."""

    steps: int = 1000
    """Updates in all."""
    epochs: float | None = None
    """How often each training example of a task, or row of conversations, is read, which are counted: decides `steps`.
    None: `steps` does."""
    batch_size: int = 32
    """Sequences (images, pairs) an update, over all devices."""
    seq_len: int = 256
    """Tokens a sequence; of the encoder, where there are two; of the text, where another input goes with it. A model
    that reads no tokens has no use for it."""
    seed: int = 0
    """Seed of the parameters, the order of the data, and dropout."""
    accumulation: int = 1
    """Microbatches that each batch is cut into to save memory; the update is the same."""
    eval_every: int = 200
    """Updates between evaluations."""
    eval_batches: int | None = 100
    """Batches of an evaluation, at most, from the front of the validation text; None: all of it."""
    patience: int | None = None
    """Stop after this many evaluations in a row that were no better than the best before, by `checkpoint.best`; None:
    go on to the last step."""
    log_every: int = 10
    """Updates between rows of metrics.jsonl."""
    max_skipped: int = 10
    """Stop after this many updates in a row whose loss or gradients were not finite (each is skipped)."""
    skip_samples: tuple[int, ...] = ()
    """Samples to leave out, by their place in the stream: update s reads those from (s-1) * batch_size up to, not
    including, s * batch_size. Padding that weighs nothing takes their place."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "steps", "batch_size", "seq_len", "accumulation", "eval_every", "log_every")
        checks.at_least(self, 1, "max_skipped", "patience")
        checks.above(self, 0, "epochs")
        some = self.eval_batches is None or self.eval_batches >= 1
        checks.rule(self, "eval_batches", some, "it must be at least 1, or None for all")
        checks.divides(self, "accumulation", "batch_size")
        samples = self.steps * self.batch_size
        if outside := [place for place in self.skip_samples if not 0 <= place < samples]:
            raise FieldError(
                TrainConfig,
                f"`skip_samples` {outside[0]}: the {self.steps} steps of {self.batch_size} read samples 0 to "
                f"{samples - 1}",
            )

    @property
    def microbatch_size(self) -> int:
        """Sequences of a microbatch, over all devices."""
        return self.batch_size // self.accumulation

    def evaluates_after(self, step: int) -> bool:
        """Returns whether the run evaluates after update number `step`."""
        return step % self.eval_every == 0 or step == self.steps


class Lengths(NamedTuple):
    """The places of an example that a model reads: tokens, or patches, or frames."""

    input: int
    """Places of its first stack, or its only one."""
    target: int
    """Places of the decoder, or of the second of two towers; 0: there is none."""

    @property
    def total(self) -> int:
        return sum(self)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run, written down."""

    name: str
    """The preset that it started from."""
    model: Architecture
    """What is trained."""
    objective: Objective = CausalLM()
    """What it is trained to do."""
    data: DataConfig = TextConfig()
    """Which data, and how they are read: of text, how it becomes tokens."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How gradients become updates."""
    mup: MupConfig = MupConfig()
    """At which size the optimizer's numbers were chosen, where that is not this model's (muP)."""
    train: TrainConfig = TrainConfig()
    """How long, in what batches, reporting when."""
    mesh: MeshConfig = MeshConfig()
    """Which devices split what."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save and what to keep."""
    execution: Execution = Execution()
    """How the model is computed; never what it computes."""
    init: InitConfig = InitConfig()
    """Which weights it starts from."""
    adapter: AdapterConfig = AdapterConfig()
    """What is trained beside those weights, where they are frozen (LoRA)."""
    teacher: TeacherConfig = TeacherConfig()
    """Which model it learns from, beside its data."""
    cluster: ClusterConfig = ClusterConfig()
    """How the processes of the run wait for each other."""

    def __post_init__(self) -> None:
        model, objective, seq_len = self.model, self.objective, self.train.seq_len
        checks.require(
            self,
            model.kind in objective.kinds,
            f"the objective {objective.name} trains {' or '.join(map(_a, objective.kinds))}, and {model.family} is "
            f"{_a(model.kind)}: choose a preset of that kind (python train.py --list)",
        )
        needs = f"the objective {objective.name}, as it is set, needs"
        fits = model.head == objective.head
        checks.require(self, fits, f"{needs} `model.head` {objective.head}, and this is {model.head}")
        lacking = ", ".join(sorted(objective.tasks - model.tasks))
        checks.require(self, not lacking, f"{needs} {lacking} scores, which a {model.family} model does not give")
        context = model.longest_input
        read = objective.input_length(seq_len)
        checks.require(
            self,
            context is None or read <= context,
            f"`train.seq_len` {seq_len}{f', for rows of {read} tokens,' if read != seq_len else ''} is longer than the "
            f"model's context of {context}: raise `model.context_length` or lower `train.seq_len`",
        )
        checks.require(
            self,
            self.adapter.rank == 0 or self.init.path is not None,
            f"`adapter.rank` {self.adapter.rank}: an adapter is trained beside weights that exist: name them by "
            "`init.path`",
        )
        checks.require(
            self,
            self.adapter.rank == 0 or self.mup.base_width is None,
            "`mup.base_width`: muP scales how a whole model learns, and `adapter.rank` trains an adapter: leave one of "
            "both out",
        )
        scaling(model, self.mup, self.optimizer)  # which refuses a base that there is not
        objective.reading(seq_len)  # which refuses a length that is too short for it
        targets = objective.target_length(seq_len)
        checks.require(
            self,
            context is None or targets <= context,
            f"the objective's targets of {targets} tokens are longer than the model's context of {context}: raise "
            "`model.context_length` or lower the targets' length",
        )
        checks.require(
            self,
            objective.sums_over_examples or self.train.accumulation == 1,
            f"`train.accumulation` {self.train.accumulation}: the objective {objective.name} tells the examples of a "
            "whole batch from each other, which no microbatch holds: make it 1, and save memory with `execution.remat` "
            "or more devices",
        )

    @property
    def lengths(self) -> Lengths:
        """The places of an example that the model reads."""
        seq_len = self.train.seq_len
        fixed = self.model.fixed_length
        read, target = self.objective.input_length(seq_len), self.objective.target_length(seq_len)
        if self.model.kind == "encoder_decoder" and not target:
            target = read  # the decoder reads the text again
        return Lengths(read if fixed is None else fixed, target)


def _a(kind: str) -> str:
    """Returns a kind of models in words."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind.replace('_', '-')}"


MAY_CHANGE = (
    "mesh",
    "execution",
    "checkpoint",
    "cluster",
    "data.cache_dir",
    "data.workers",
    "data.changed",
    "train.steps",
    "train.accumulation",
    "train.eval_every",
    "train.eval_batches",
    "train.patience",
    "train.epochs",
    "train.log_every",
    "train.max_skipped",
    "train.skip_samples",
)
"""Fields that a resumed run may change: they alter where, how and how long it runs, not what was learnt so far."""


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Returns the experiment as plain JSON values."""
    return _converter().unstructure(experiment)


def from_dict(record: Any, where: str) -> Experiment:
    """Returns the experiment that `to_dict` wrote, today's or an older version's.

    Args:
      record: the parsed JSON.
      where: the file, for the error message.

    Raises:
      UserError: an unknown or missing field, a value of the wrong type.
    """
    try:
        return _converter().structure(migrated(record), Experiment)
    except cattrs.BaseValidationError as error:
        raise UserError(f"{where}: not an experiment of this version: {checks.reasons(error)}") from error


def read(path: epath.Path) -> Experiment:
    """Reads an `experiment.json`; raises UserError naming it."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: is this a run folder?") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    return from_dict(record, str(path))


def absolute(experiment: Experiment) -> Experiment:
    """Returns the experiment with its paths of data, tokenizers, weights and local checkpoints in full, which mean the
    same from any folder; links are not followed. A teacher's is that of one checkpoint.

    Raises:
      UserError: there is no such teacher.
    """
    path, local = experiment.init.path, experiment.checkpoint.local_dir
    if local is not None:
        checkpoint = dataclasses.replace(experiment.checkpoint, local_dir=paths.absolute(local))
        experiment = dataclasses.replace(experiment, checkpoint=checkpoint)
    init = dataclasses.replace(experiment.init, path=None if path is None else paths.absolute(path))
    teacher = pinned(experiment.teacher)
    return dataclasses.replace(experiment, init=init, teacher=teacher, data=experiment.data.absolute())


def differences(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Returns dotted field -> (old value, new value), for every field that differs.

    A path that was recorded as it was typed, which older versions did, is the one of now if that ends so.
    """
    fields = ("init.path", *(f"data.{name}" for name in new.data.paths))
    return {
        field: (before, after)
        for field, (before, after) in differing(to_dict(old), to_dict(new)).items()
        if not (field in fields and _same_path(before, after))
    }


def differing(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns dotted field -> (old value, new value), of two records of `to_dict`."""
    fields = differing_fields(old, new)
    return {field: (before, after) for field, (before, after) in fields.items() if before != after}


def _same_path(recorded: Any, now: Any) -> bool:
    if isinstance(recorded, list | tuple) and isinstance(now, list | tuple):
        return len(recorded) == len(now) and all(map(_same_path, recorded, now))
    if recorded == now:
        return True
    if not isinstance(recorded, str) or not isinstance(now, str) or os.path.isabs(recorded):
        return False
    return now.endswith(f"/{os.path.normpath(recorded)}")


def may_change(field: str) -> bool:
    """Whether a resumed run may differ from its record in this dotted field."""
    return any(field == name or field.startswith(f"{name}.") for name in MAY_CHANGE)


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(Architecture, lambda record, _: architecture_from_dict(record))
    converter.register_unstructure_hook_func(lambda cls: issubclass(cls, Architecture), architecture_to_dict)
    _register_kinds(converter, Objective, "objective", OBJECTIVES, default=None)
    configs = {name: kind.config for name, kind in KINDS.items()}
    _register_kinds(converter, DataConfig, "data", configs, default=TextConfig.kind)
    return converter


def _register_kinds(
    converter: cattrs.Converter, base: type, what: str, kinds: Mapping[str, type], *, default: str | None
) -> None:
    """Makes a converter write an object with its `kind`, and read it by that.

    Args:
      converter: that of experiments.
      base: the class of a field.
      what: the field's name, for the error message.
      kinds: name -> a subclass.
      default: the name of those that are written without one.
    """
    structure = {
        name: make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True) for name, cls in kinds.items()
    }
    names = {cls: name for name, cls in kinds.items()}

    def read_kind(record: Any, _: type) -> Any:
        kind = record.get("kind", default) if isinstance(record, dict) else record
        if not isinstance(record, dict) or kind not in kinds:
            raise ValueError(f"unknown {what} {kind!r}; known as a `kind`: {', '.join(kinds)}")
        fields = {name: value for name, value in record.items() if name != "kind"}
        return structure[kind](fields, kinds[kind])

    def write_kind(value: Any) -> dict[str, Any]:
        name = names[type(value)]
        return ({} if name == default else {"kind": name}) | dataclasses.asdict(value)

    converter.register_structure_hook(base, read_kind)
    converter.register_unstructure_hook_func(lambda cls: issubclass(cls, base), write_kind)
