"""Tell what a text, or a pair of texts, is: one class, several, or a number (Devlin et al. 2019, section 4.1).

Shape letters: B batch, C classes.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.examples.dataset import ExamplesDataset
from transformer.data.examples.texts import Labels, TextsReading
from transformer.data.records import Record
from transformer.errors import UserError
from transformer.metrics import classification
from transformer.objectives.examples import ExamplesObjective, reads_types, text_inputs
from transformer.objectives.objective import ModelInputs

_LABELS: dict[str, Labels] = {
    "single_label_classification": "one",
    "multi_label_classification": "several",
    "regression": "number",
}


class Setting(NamedTuple):
    """What a classifier's examples need."""

    classes: np.ndarray
    """int32: of each of the dataset's classes, the number that the model has for it."""
    weights: np.ndarray
    """float32 [C]: what an example of each class weighs."""
    has_types: bool
    """Whether the model reads token types."""
    decoder_start: int | None
    """What the decoder of an encoder-decoder reads first; None: the model has none."""


@dataclasses.dataclass(frozen=True)
class TextClassification(ExamplesObjective):
    """Cross entropy over classes; or, for each class by itself, whether it is right; or the squared error."""

    name: ClassVar[str] = "text_classification"
    reads: ClassVar[str] = "texts with labels"
    other_kinds: ClassVar[tuple[str, ...]] = ("decoder", "encoder_decoder")

    problem: Literal["single_label_classification", "multi_label_classification", "regression"] = (
        "single_label_classification"
    )
    """What a label is: a class, several of them, or a number."""
    class_weights: Literal["none", "balanced"] = "none"
    """What an example weighs in the loss: none: 1; balanced: the less, the more training examples have its class
    (n / (C n_c), King and Zeng 2001)."""
    label_smoothing: float = 0.0
    """Probability mass spread evenly over the classes, where one is right (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        checks.within(self, "[0, 1)", "label_smoothing")
        single = self.problem == "single_label_classification"
        for field, unused in (("label_smoothing", 0.0), ("class_weights", "none")):
            usable = single or getattr(self, field) == unused
            checks.rule(self, field, usable, f"it is of single_label_classification, and `problem` is {self.problem}")

    @property
    def head(self) -> str:
        return "sequence_classification"

    def model_fields(self, labels: tuple[str, ...]) -> dict[str, Any]:
        return {"num_labels": len(labels) or 1, "labels": labels, "problem_type": self.problem}

    def reading(self, seq_len: int) -> TextsReading:
        return TextsReading(seq_len, kind=_LABELS[self.problem])

    def setting(self, dataset: Dataset, seq_len: int, model: ModelInputs) -> Setting:
        del seq_len
        examples = self.checked(dataset)
        classes = classes_of(examples, model)
        weights = np.ones(model.num_labels, np.float32)
        if self.class_weights == "balanced":
            counts = np.bincount(classes, examples.counts, model.num_labels)
            weights = (counts.sum() / (model.num_labels * np.maximum(counts, 1))).astype(np.float32)
        return Setting(classes, weights, reads_types(model), model.first_decoder_token)

    def bare_setting(self, seq_len: int, model: ModelInputs) -> Setting:
        del seq_len
        ones = np.ones(model.num_labels, np.float32)
        classes = np.arange(model.num_labels, dtype=np.int32)
        return Setting(classes, ones, reads_types(model), model.first_decoder_token)

    def padding(self, seq_len: int, model: ModelInputs) -> dict[str, Any]:
        record = self.reading(seq_len).empty(model.num_labels)
        return self.example(record, np.random.default_rng(0), self.bare_setting(seq_len, model))

    def example(self, record: Record, rng: np.random.Generator, setting: Setting) -> dict[str, Any]:
        """Returns a text, and its label: int32 [], or float32 [C].

        Args:
          record: as `TextsRecords` has them.
          rng: not used.
          setting: what the model calls classes.
        """
        del rng
        label, weight = record["label"], record["there"]
        if self.problem == "single_label_classification":
            target = setting.classes[label] if len(setting.classes) else label
            weight = weight * setting.weights[target]
        elif self.problem == "multi_label_classification":
            target = np.zeros(len(setting.weights), np.float32)
            target[setting.classes] = label
        else:
            target = label[None]
        inputs = text_inputs(record, setting.has_types, setting.decoder_start)
        return {"inputs": inputs, "targets": np.asarray(target), "weights": weight}

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns the sums over texts; `nll` is the loss without smoothing."""
        logits_BC, targets, weights_B = outputs.logits.astype(jnp.float32), batch["targets"], batch["weights"]
        if self.problem == "single_label_classification":
            logs_BC = jax.nn.log_softmax(logits_BC)
            nll_B = -jnp.take_along_axis(logs_BC, targets[:, None], axis=-1)[:, 0]
            loss_B = (1 - self.label_smoothing) * nll_B - self.label_smoothing * logs_BC.mean(axis=-1)
            metrics = {"nll": nll_B, "accuracy": (logits_BC.argmax(axis=-1) == targets).astype(jnp.float32)}
        elif self.problem == "multi_label_classification":
            told_BC = jax.nn.softplus(logits_BC) - targets * logits_BC  # of a sigmoid's cross entropy
            loss_B = told_BC.mean(axis=-1)
            right_BC = (logits_BC > 0) == (targets > 0.5)
            metrics = {"nll": loss_B, "accuracy": right_BC.astype(jnp.float32).mean(axis=-1)}
        else:
            loss_B = jnp.square(logits_BC - targets).mean(axis=-1)
            metrics = {"nll": loss_B}
        sums = {name: (values * weights_B).sum() for name, values in metrics.items()}
        return (loss_B * weights_B).sum(), weights_B.sum(), sums

    def predictions(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `logits` [B, C] and `targets`."""
        return {"logits": outputs.logits.astype(jnp.float32), "targets": batch["targets"]}

    def score(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> dict[str, float]:
        del dataset, model
        logits_NC, targets = predictions["logits"], predictions["targets"]
        if self.problem == "single_label_classification":
            return classification.one_class(logits_NC, targets)
        if self.problem == "multi_label_classification":
            return classification.several_classes(logits_NC, targets)
        return classification.numbers(logits_NC[:, 0], targets[:, 0])

    def table(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> str | None:
        del dataset
        if self.problem != "single_label_classification":
            return None
        return classification.confusion(predictions["logits"].argmax(axis=1), predictions["targets"], model.class_names)

    def answers(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> Iterator[dict[str, Any]]:
        """Yields the fields of each row, and what was `told`: a class, several, or a number; `scores` are probabilities
        of classes."""
        from scipy.special import expit, softmax  # takes a fifth of a second to import

        assert isinstance(dataset, ExamplesDataset)
        logits_NC, names = predictions["logits"].astype(np.float64), model.class_names
        single = self.problem == "single_label_classification"
        scores_NC = softmax(logits_NC, axis=1) if single else expit(logits_NC)
        for number, logits_C in enumerate(logits_NC):
            row, scores_C = dataset.held_out[number].values, scores_NC[number]
            if self.problem == "regression":
                yield {**row, "told": float(logits_C[0])}
                continue
            told = names[logits_C.argmax()] if single else [names[i] for i in np.flatnonzero(logits_C > 0)]
            yield {**row, "told": told, "scores": dict(zip(names, scores_C.tolist(), strict=True))}


def classes_of(examples: ExamplesDataset, model: ModelInputs) -> np.ndarray:
    """Returns int32: of each of the data's classes, the number that a model has for it.

    Raises:
      UserError: the model does not know it.
    """
    known = {label: number for number, label in enumerate(model.class_names)}
    if unknown := [label for label in examples.labels if label not in known]:
        names = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
        raise UserError(
            f"{examples.held_out_with(unknown[0])}: the label {unknown[0]!r} is none of the model's {len(known)} "
            f"({names})"
        )
    return np.array([known[label] for label in examples.labels], np.int32)
