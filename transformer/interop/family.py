"""Family: a model type of Transformers with its config.json, its classes and the names of its weights."""

import dataclasses
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from transformer.checks import FieldError
from transformer.errors import UserError
from transformer.interop import engine, flax_names, hf_config
from transformer.interop.engine import Table
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import Field
from transformer.models.architecture import Architecture, ProblemType, unnamed_labels

LABELLED = ("sequence_classification", "token_classification", "image_classification")
"""Heads whose number of classes is a user's choice."""

_CLASSES = {
    "pretraining": "ForPreTraining",
    "language_model": "ForCausalLM",
    "masked_lm": "ForMaskedLM",
    "next_sentence": "ForNextSentencePrediction",
    "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "multiple_choice": "ForMultipleChoice",
    "image_classification": "ForImageClassification",
    "none": "Model",
    "unpooled": "Model",
}
"""Head -> what Transformers usually calls its class, behind the family's name; the richest first."""

_LABELS = ("id2label", "label2id", "num_labels", "_num_labels", "problem_type")
"""Fields of config.json about a classifier's classes."""


def count_labels(config: Mapping[str, Any]) -> int:
    """Returns the number of a classifier's classes in a config.json; Transformers' default is 2."""
    labels, number = config.get("id2label"), config.get("num_labels")
    if labels is not None and not isinstance(labels, Mapping):
        raise UserError(f"config.json: id2label = {labels!r} is not a table of labels")
    if number is not None and (not isinstance(number, int) or number < 1):
        raise UserError(f"config.json: num_labels = {number!r} is not a number of labels")
    return len(labels) if labels else number or 2


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of a classifier's classes in a config.json; none where they are its numbers, or not of all."""
    names = {str(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    if names.keys() != {str(number) for number in range(len(names))}:
        return ()
    labels = tuple(names[str(number)] for number in range(len(names)))
    return () if labels == unnamed_labels(len(labels)) else labels


def classes(name: str, heads: Collection[str], **others: str) -> dict[str, str]:
    """Returns `Family.heads` of the family that Transformers calls `name`; `others` are classes named otherwise."""
    return {head: others.get(head, name + ending) for head, ending in _CLASSES.items() if head in heads}


def _num_labels(config: Any) -> int | None:
    """Returns the number of a head's labels; None for a head whose labels Transformers does not count."""
    if config.head == "question_answering":  # a start and an end
        return 2
    return config.num_labels if config.head in LABELLED else None


def _unchanged(config: dict[str, Any]) -> dict[str, Any]:
    return config


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of Transformers. Both directions follow from its fields and its table."""

    model_type: str
    config: Callable[..., Architecture]
    """Our config class, called with the mapped fields, and with `head` and `num_labels`."""
    fields: Sequence[Field]
    """Fields that are mapped between config.json and our config."""
    heads: Mapping[str, str]
    """Our head -> Transformers' class, in the order in which a checkpoint is tried for them: the richest first."""
    table: Callable[[Any], Table]
    """An architecture -> the table of its weights, its head included."""
    pinned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field of theirs -> the only value supported, which is also Transformers' default; written too."""
    harmless: Collection[str] = ()
    """Further fields that change neither weights nor scores."""
    inert: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """Further field -> the values with which it changes nothing; `hf_config.Same`: another field's value."""
    spelled: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field that `normalise` takes apart or fills in -> its type, for `hf_config.checked`; it may be null."""
    normalise: Callable[[dict[str, Any]], dict[str, Any]] = _unchanged
    """config.json -> the same in the fields of this table: older or nested spellings; raises `UserError`."""
    denormalise: Callable[[dict[str, Any]], dict[str, Any]] = _unchanged
    """The table's fields -> config.json."""
    fits: Callable[[Any], bool] = lambda config: True
    """Whether this model type computes an architecture of the class `config`."""
    flax: FlaxClasses | None = None
    """The family's Flax classes in Transformers 4; None: there are none."""

    def read_config(self, config: Mapping[str, Any], head: str, num_labels: int = 2) -> Any:
        """Returns the architecture that a config.json describes, with a head.

        Raises:
          UserError: a field that would change the numbers and is not supported, by name.
        """
        if config.get("model_type") != self.model_type:
            raise UserError(f"config.json: model_type is {config.get('model_type')!r}, not {self.model_type!r}")
        rules = self._field_rules
        hf_config.check_kinds(config, rules)
        values = hf_config.read(self.normalise(dict(config)), rules)
        labels: dict[str, Any] = {}
        if head in LABELLED:
            names, problem = labels_of(config), config.get("problem_type")
            if problem is not None and problem not in typing.get_args(ProblemType):
                raise UserError(
                    f"config.json: problem_type = {problem!r}; known: {', '.join(typing.get_args(ProblemType))}"
                )
            labels = {"num_labels": num_labels, "problem_type": problem}
            labels["labels"] = names if len(names) == num_labels else ()
        try:
            return self.config(**values, head=head, **labels)
        except FieldError as error:  # it names our fields
            theirs = [field.theirs for field in self.fields if field.ours in error.fields]
            raise UserError(f"config.json: {', '.join(theirs)}: {error}") from error

    def write_config(self, config: Architecture) -> dict[str, Any]:
        """Returns the config.json of an architecture."""
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        theirs = self.denormalise({**self.pinned, **hf_config.write(values, self.fields)})
        if values["head"] in LABELLED:
            names = config.class_names
            theirs |= {"id2label": {str(number): name for number, name in enumerate(names)}}
            theirs |= {"label2id": {name: number for number, name in enumerate(names)}}
            theirs |= {} if config.problem_type is None else {"problem_type": config.problem_type}
        return {"model_type": self.model_type, "architectures": [self.heads[values["head"]]], **theirs}

    def rewrite_config(self, config: Architecture, before: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the config.json of an imported architecture, with further fields of the folder's own.

        Args:
          config: the architecture, perhaps with another head.
          before: the folder's config.json. Its bookkeeping stays, and its labels where the head has as many.
        """
        written = self.write_config(config)
        ours = {"architectures", "model_type", *self.pinned, *(field.theirs for field in self.fields)}
        kept = {name: before[name] for name in self.bookkeeping(before) if name not in ours}
        num_labels = _num_labels(config)
        if num_labels == count_labels(before) and config.labels in ((), labels_of(before)):
            written = {name: value for name, value in written.items() if name not in _LABELS}
        elif num_labels:
            kept = {name: value for name, value in kept.items() if name not in _LABELS}
        return {**written, **kept}

    def bookkeeping(self, config: Mapping[str, Any]) -> list[str]:
        """Returns the fields of a config.json that change neither weights nor scores, such as special ids."""
        ours = {*self.pinned, *self.spelled, *(field.theirs for field in self.fields)}
        rules = self._field_rules
        return [
            name
            for name, value in config.items()
            if name not in ours and hf_config.changes_nothing(name, value, config, rules)
        ]

    @property
    def _field_rules(self) -> hf_config.FieldRules:
        kinds = typing.get_type_hints(self.config)
        return hf_config.FieldRules(self.fields, kinds, self.pinned, self.harmless, self.inert, self.spelled)

    def from_hf(self, tensors: Mapping[str, np.ndarray], config: Architecture, *, leave: Collection[str] = ()) -> Any:
        """Returns our parameters (numpy, float32) from Transformers' tensors; strict, as `engine.load`."""
        return self.load(tensors, config, leave=leave).params

    def load(
        self, tensors: Mapping[str, np.ndarray], config: Architecture, *, leave: Collection[str] = ()
    ) -> engine.Loaded:
        """Returns the parameters as `from_hf` does, and the dtypes of the tensors."""
        return engine.load(self.table(config), tensors, config.abstract_params(), leave=leave)

    def stream(
        self, params: Any, config: Architecture, dtypes: Mapping[str, Any] = MappingProxyType({})
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yields Transformers' tensors from our parameters, a tied one once; dtypes as `load` has them, or float32."""
        return ((name, array) for name, array, _ in engine.stream(self.table(config), params, dtypes))

    def flax_stream(
        self, params: Any, config: Architecture, dtypes: Mapping[str, Any] = MappingProxyType({})
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the tensors of `stream` under the paths of Transformers 4's Flax classes.

        Raises:
          UserError: no such class computes the architecture.
        """
        return flax_names.stream(self.table(config), self.flax_classes(config), params, dtypes)

    def flax_classes(self, config: Any) -> FlaxClasses:
        """Returns the family's Flax classes; raises UserError where none of them computes an architecture."""
        cls = f"Flax{self.heads[config.head]}"
        if self.flax is None or config.head not in self.flax.heads:
            raise UserError(f"Transformers 4 has no {cls}: export without --flax")
        if reason := self.flax.refusal(config):
            raise UserError(f"{cls} {reason}: export without --flax")
        return self.flax
