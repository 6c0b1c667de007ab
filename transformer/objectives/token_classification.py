"""Tell what each word of a text is: the name of a person, a verb (Devlin et al. 2019, section 5.3).

Shape letters: B batch, T length, C classes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.examples.dataset import ExamplesDataset
from transformer.data.examples.tagged import TaggedReading, TaggedRecords
from transformer.data.records import Record
from transformer.metrics import tagging
from transformer.objectives.examples import ExamplesObjective, reads_types, text_inputs
from transformer.objectives.objective import ModelInputs
from transformer.objectives.text_classification import classes_of

_OUTSIDE = "O"
"""Tag of a word that is told nothing of."""


class Setting(NamedTuple):
    """What a tagger's examples need."""

    classes: np.ndarray
    """int32: of each of the dataset's tags, the number that the model has for it; empty: its own."""
    has_types: bool
    """Whether the model reads token types."""


@dataclasses.dataclass(frozen=True)
class TokenClassification(ExamplesObjective):
    """Cross entropy over tags at the first token of each word; the mean over words."""

    name: ClassVar[str] = "token_classification"
    reads: ClassVar[str] = "tagged words"
    other_kinds: ClassVar[tuple[str, ...]] = ("decoder",)

    tags: Literal["entities", "words"] = "entities"
    """entities: tags of names of several words, O, B-NAME and I-NAME, scored as whole names; words: each word's tag
    stands by itself, as a part of speech."""
    label_smoothing: float = 0.0
    """Probability mass spread evenly over the tags (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        checks.within(self, "[0, 1)", "label_smoothing")

    @property
    def head(self) -> str:
        return "token_classification"

    def model_fields(self, labels: tuple[str, ...]) -> dict[str, Any]:
        return {"num_labels": len(labels), "labels": labels, "problem_type": None}

    def reading(self, seq_len: int) -> TaggedReading:
        return TaggedReading(seq_len, entities=self.tags == "entities")

    def setting(self, dataset: Dataset, seq_len: int, model: ModelInputs) -> Setting:
        del seq_len
        return Setting(classes_of(self.checked(dataset), model), reads_types(model))

    def bare_setting(self, seq_len: int, model: ModelInputs) -> Setting:
        del seq_len
        return Setting(np.zeros(0, np.int32), reads_types(model))

    def example(self, record: Record, rng: np.random.Generator, setting: Setting) -> dict[str, Any]:
        """Returns a text, and its tags: int32 [T].

        Args:
          record: as `TaggedRecords` has them.
          rng: not used.
          setting: what the model calls tags.
        """
        del rng
        tags = setting.classes[record["tags"]] if len(setting.classes) else record["tags"]
        return {"inputs": text_inputs(record, setting.has_types), "targets": tags, "weights": record["tagged"]}

    def cut(self, batch: dict[str, Any], width: int) -> dict[str, Any]:
        whole = super().cut(batch, width)
        return whole | {name: batch[name][:, :width] for name in ("targets", "weights")}

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns the sums over words; `nll` is the loss without smoothing."""
        logits_BTC, targets_BT, weights_BT = outputs.logits.astype(jnp.float32), batch["targets"], batch["weights"]
        logs_BTC = jax.nn.log_softmax(logits_BTC)
        nll_BT = -jnp.take_along_axis(logs_BTC, targets_BT[..., None], axis=-1)[..., 0]
        loss_BT = (1 - self.label_smoothing) * nll_BT - self.label_smoothing * logs_BTC.mean(axis=-1)
        return (loss_BT * weights_BT).sum(), weights_BT.sum(), {"nll": (nll_BT * weights_BT).sum()}

    def predictions(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `classes`, int32 [B, T]: what each token is told to be."""
        classes_BT, order = outputs.logits.argmax(axis=-1).astype(jnp.int32), batch["inputs"].get("order")
        return {"classes": classes_BT if order is None else classes_BT[:, jnp.argsort(order[0])]}

    def score(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> dict[str, float]:
        return self._metrics(*self._sentences(predictions, dataset, model))(slice(None))

    def resampling(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> tuple[int, Callable[[np.ndarray], dict[str, float]]]:
        """Returns how many sentences were scored, and the metrics of some of them."""
        right, told = self._sentences(predictions, dataset, model)
        return len(right), self._metrics(right, told)

    def table(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> str:
        """Returns precision, recall and F1 of each kind of name, or of each tag."""
        right, told = self._sentences(predictions, dataset, model)
        return tagging.entity_table(right, told) if self.tags == "entities" else tagging.word_table(right, told)

    def answers(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> Iterator[dict[str, Any]]:
        """Yields the fields of each row, and a tag a word that was `told`."""
        assert isinstance(dataset, ExamplesDataset)
        _, told = self._sentences(predictions, dataset, model)
        for number, tags in enumerate(told):
            yield {**dataset.held_out[number].values, "told": tags}

    def _metrics(self, right: tagging.Sentences, told: tagging.Sentences) -> Callable[[Any], dict[str, float]]:
        """Returns what gives the metrics of some of the sentences."""
        if self.tags == "entities":
            return tagging.count_entities(right, told).entities
        return tagging.count_words(right, told).words

    def _sentences(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> tuple[list[list[str]], list[list[str]]]:
        """Returns the right and the told tags of all words of each sentence; O of one that has no token in the row."""
        assert isinstance(dataset, ExamplesDataset)
        assert isinstance(dataset.validation, TaggedRecords)
        records, labels = dataset.validation, np.array(dataset.labels)
        names = np.array([*model.class_names, _OUTSIDE])
        right, told = [], []
        for number, classes_T in enumerate(predictions["classes"]):
            places = records.places[number]
            right.append(labels[records.tags[number]].tolist())
            told.append(names[np.where(places < 0, len(names) - 1, classes_T[places])].tolist())
        return right, told
