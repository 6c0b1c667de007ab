"""The teacher: which checkpoint it is, whether a student can learn from it, and the tokenizer that they share."""

import dataclasses
from typing import Any

from etils import epath
from jax.sharding import AbstractMesh, Mesh

from transformer import checkpoint
from transformer.distillation.config import TeacherConfig
from transformer.errors import UserError
from transformer.models import Architecture
from transformer.objectives.objective import Objective
from transformer.parallel.layout import abstract_on
from transformer.tokenizers.kinds import is_file, read_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.transfer.weights import tokenizer_of

WORDS = ("language_model", "masked_lm", "pretraining")
"""The heads that tell words."""
CLASSES = ("sequence_classification", "token_classification", "image_classification")
"""The heads that tell classes by one distribution a row, or a token."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher's checkpoint, its weights not read yet."""

    checkpoint: epath.Path
    architecture: Architecture

    @classmethod
    def of(cls, config: TeacherConfig) -> "Teacher":
        """Returns the teacher at `config.path`; UserError where there is none."""
        source = found(config)
        return cls(source, checkpoint.read_architecture(source))

    def abstract(self, mesh: Mesh | AbstractMesh) -> Any:
        """Returns its weights as `ShapeDtypeStruct`s on a mesh, by the rules of all parameters.

        Raises:
          UserError: the mesh does not divide one.
        """
        try:
            return abstract_on(self.architecture.abstract_params(), mesh)
        except UserError as error:
            raise UserError(f"the teacher {self.checkpoint}: {error}") from error

    def load(self, mesh: Mesh) -> Any:
        """Returns its weights, an adapter's merged, on a mesh as `abstract` says; all processes must call it."""
        return checkpoint.restore_model(self.checkpoint, mesh)[1]


def found(config: TeacherConfig) -> epath.Path:
    """Returns the checkpoint that `config.path` names: a run's newest, or itself.

    Raises:
      UserError: there is none.
    """
    assert config.path is not None
    try:
        return checkpoint.find(config.path)
    except UserError as error:
        raise UserError(f"--teacher.path: {error}. Train the teacher first, or name another") from error


def pinned(config: TeacherConfig) -> TeacherConfig:
    """Returns the config with the path of one checkpoint: a run that is named by its folder may get newer ones."""
    return config if config.path is None else dataclasses.replace(config, path=str(found(config)))


def check(config: TeacherConfig, teacher: Architecture, student: Architecture, objective: Objective) -> None:
    """Raises `UserError` unless a student can learn from a teacher what `config` asks for.

    Args:
      config: what is learnt.
      teacher: the teacher's architecture.
      student: the student's.
      objective: the student's.
    """

    both = f"{teacher.family}, and the model {student.family}"
    _need(config, teacher.kind == student.kind, f"it is of another kind: {both}")
    names = dict.fromkeys(WORDS, "words") | dict.fromkeys(CLASSES, "classes")
    if student.head not in names:
        raise UserError(f"--teacher.path: a model with the head {student.head} learns from no teacher")
    fits = teacher.head in WORDS if student.head in WORDS else teacher.head == student.head
    _need(config, fits, f"it has the head {teacher.head}, and the model {student.head}")
    count = "vocab_size" if student.head in WORDS else "num_labels"
    have, want = getattr(teacher, count), getattr(student, count)
    _need(config, have == want, f"it tells {have} {names[student.head]}, and the model {want}")
    if student.head in CLASSES and student.problem != "single_label_classification":
        raise UserError(f"--teacher.path: scores of a {student.problem} are no distribution, which is what is learnt")
    alike = teacher.input_size == student.input_size
    _need(config, alike, f"it reads inputs of {teacher.input_size}, and the model of {student.input_size}")
    same = not objective.tasks or teacher.family == student.family
    tasks = " and ".join(sorted(objective.tasks))
    _need(config, same, f"it is {both}: what the objective's {tasks} scores read, only the same family reads too")
    for field in ("cosine", "hidden"):
        fits = not getattr(config, field) or teacher.width == student.width
        told = f"it is {teacher.width} wide and the model {student.width}, so no states are compared"
        _need(config, fits, f"{told}: give --teacher.{field} 0")
    if config.compares_layers:
        _check_layers(config, teacher, student)


def _need(config: TeacherConfig, holds: bool, told: str) -> None:
    if not holds:
        raise UserError(f"--teacher.path {config.path}: {told}")


def _check_layers(config: TeacherConfig, teacher: Any, student: Any) -> None:
    """Raises `UserError` unless the layers of both can be compared, one by one."""
    for model in (teacher, student):
        layers = {each.layers for each in model.parameters.values() if each.path.startswith("backbone/stack/layers/")}
        if layers != {model.stacks.get("stack")}:
            raise UserError(
                f"--teacher.hidden and --teacher.attention: {model.family} has no single stack of layers that are all "
                "alike: give 0"
            )
        plain = (
            model.scales_scores
            and model.attention_windows == (None,)
            and "backbone/stack/layers/attention/query/kernel" in model.parameters
        )
        if config.attention and not plain:
            raise UserError(f"--teacher.attention: {model.family} has attention of its own kind: give 0")
    deep, own = teacher.stacks["stack"], student.stacks["stack"]
    if config.layers is None:
        told = f"it has {deep} layers, no multiple of the model's {own}: name them by --teacher.layers"
        _need(config, deep % own == 0, told)
    else:
        are_there = len(config.layers) == own and all(0 <= layer < deep for layer in config.layers)
        told = f"it has {deep} layers and the model {own}: give --teacher.layers {own} numbers from 0 to {deep - 1}"
        _need(config, are_there, told)
    if config.attention:
        heads = teacher.num_heads, student.num_heads
        told = f"it has {heads[0]} heads and the model {heads[1]}: give --teacher.attention 0"
        _need(config, heads[0] == heads[1], told)


def shared_tokenizer(config: TeacherConfig, tokenizer: Tokenizer | None, named: str, vocab_size: int) -> Tokenizer:
    """Returns the teacher's tokenizer, which is the student's too.

    Args:
      config: the teacher.
      tokenizer: the student's, where it is decided already; None: it is not.
      named: `--data.tokenizer`, of which a file is one tokenizer. (A kind may be a preset's default: it gives way.)
      vocab_size: the student's.

    Raises:
      UserError: the student's is another, or the teacher came without one.
    """
    source = found(config)
    known = tokenizer_of(str(source))
    if known is None:
        raise UserError(f"--teacher.path {source} came without its tokenizer: its words would mean nothing here")
    if tokenizer is None and is_file(named):
        tokenizer = read_tokenizer(named, vocab_size)
    if tokenizer is not None and tokenizer.fingerprint != known.fingerprint:
        raise UserError(
            f"--teacher.path {source} has another tokenizer: {known.vocab_size} pieces (fingerprint "
            f"{known.fingerprint[:12]}), and this run's has {tokenizer.vocab_size} ({tokenizer.fingerprint[:12]}): a "
            "student learns from a teacher of the same words"
        )
    return known
