"""What an objective is: how an example becomes a batch, and how a batch becomes a loss."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.records import Reading, Record, stack
from transformer.data.tokenized import TokenizedDataset
from transformer.errors import UserError
from transformer.ops.cross_entropy import cross_entropy
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.tokenizers.vocabulary import Vocabulary


class ModelInputs(Protocol):
    """What examples depend on of the model that they are made for: of an `Architecture`."""

    @property
    def first_decoder_token(self) -> int | None: ...

    @property
    def input_size(self) -> tuple[int, ...]: ...

    @property
    def num_labels(self) -> int: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a run's examples of tokens are made for."""

    vocabulary: Vocabulary
    seq_len: int
    """Tokens that the model (its encoder, where it has one) reads of an example."""
    decoder_start_id: int | None = None
    """What the decoder of an encoder-decoder reads first; None: the model has no such decoder."""

    @property
    def decoder_start(self) -> int:
        """`decoder_start_id`, of a model that has one."""
        if self.decoder_start_id is None:
            raise ValueError("the model has no decoder that starts with a token of its own")
        return self.decoder_start_id


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """An objective. A subclass is a frozen dataclass of plain fields and checks itself in `__post_init__`."""

    name: ClassVar[str]
    """The name under which `transformer.objectives.OBJECTIVES` and an experiment.json know it."""
    kind: ClassVar[str]
    """The models that it trains (`Architecture.kind`)."""
    other_kinds: ClassVar[tuple[str, ...]] = ()
    """Further kinds of models that it trains."""
    fine_tunes: ClassVar[bool] = False
    """Whether a run that starts from weights takes their architecture too, with this objective's head."""
    sums_over_examples: ClassVar[bool] = True
    """Whether its loss is a sum over examples, which microbatches add up to; not where examples are told from each
    other: such a loss is of the whole batch, and accumulation is refused."""
    scores_text: ClassVar[bool] = False
    """Whether it scores every token of a text, given those before: only then is there a loss per byte."""

    @property
    @abc.abstractmethod
    def head(self) -> str:
        """The head that the model must have."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds of models that it trains."""
        return (self.kind, *self.other_kinds)

    def model_fields(self, labels: tuple[str, ...]) -> dict[str, Any]:
        """Returns the fields of the model's architecture that follow from the names of the data's classes."""
        del labels
        return {}

    @property
    def tasks(self) -> frozenset[str]:
        """What the model must tell besides words (`Architecture.tasks`)."""
        return frozenset()

    @property
    def copies(self) -> int | None:
        """The epochs after which examples repeat (`transformer.data.pipeline.train_batches`); None: never."""
        return None

    @property
    def rows(self) -> int:
        """Rows of the model that an example is; where there are several, its inputs are [rows, ...] each."""
        return 1

    @property
    def begins_source(self) -> bool:
        """Whether an encoder reads <s> before a text that the decoder answers."""
        return False

    def reading(self, seq_len: int) -> Reading:
        """Returns which records it reads to fill `seq_len` tokens; UserError where those are too few."""
        del seq_len
        return Reading()

    def input_length(self, seq_len: int) -> int:
        """Returns the tokens that the model (its encoder, where it has one) reads of an example."""
        del seq_len
        return 1

    def text_length(self, seq_len: int) -> int:
        """Returns the tokens of an example's longest text: of its only one, by default."""
        return self.input_length(seq_len)

    def target_length(self, seq_len: int) -> int:
        """Returns the tokens that the decoder of an encoder-decoder reads; 0 without one."""
        del seq_len
        return 0

    def setting(self, dataset: Dataset, seq_len: int, model: ModelInputs) -> Any:
        """Returns what `example` needs besides a record, None by default; UserError where the dataset lacks it, or has
        what the model cannot tell.
        """
        del dataset, seq_len, model

    def bare_setting(self, seq_len: int, model: ModelInputs) -> Any:
        """Returns what `example` needs where there is no dataset: shapes of examples follow from it, and no values."""
        del seq_len, model

    def padding(self, seq_len: int, model: ModelInputs) -> dict[str, Any]:
        """Returns an example of a record that is all padding, which has every example's shapes and dtypes.

        Raises:
          UserError: they follow from the data alone.
        """
        record = self.reading(seq_len).padding(model.input_size)
        return self.example(record, np.random.default_rng(0), self.bare_setting(seq_len, model))

    @abc.abstractmethod
    def example(self, record: Record, rng: np.random.Generator, setting: Any) -> dict[str, Any]:
        """Returns `inputs` (the model's keyword arguments), `targets` and `weights` (float32), in numpy.

        Equal records and generators give equal examples, of the same shapes for all records; a record that is all
        zeros is padding and weighs nothing.
        """

    def examples(self, records: Record, rngs: Sequence[np.random.Generator], setting: Any) -> dict[str, Any]:
        """Returns the examples of many records, stacked: row i is `example` of record i and generator i, to the bit.

        Args:
          records: what `example` reads, with a first axis more.
          rngs: as many.
          setting: as for `example`.
        """
        rows = ({name: values[row] for name, values in records.items()} for row in range(len(rngs)))
        return stack([self.example(row, rng, setting) for row, rng in zip(rows, rngs, strict=True)])

    def cut(self, batch: dict[str, Any], width: int) -> dict[str, Any]:
        """Returns a batch, [B, T, ...] in its inputs, without what is beyond its first `width` tokens."""
        return batch | {"inputs": {name: values[:, :width] for name, values in batch["inputs"].items()}}

    @abc.abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns (loss_sum, weight, metrics): float32 sums over the batch's targets.

        The metrics have `nll`, what an evaluation reports as the loss.
        """

    def predictions(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what `score` needs of each example, [B, ...]; nothing where sums over examples say all."""
        del outputs, batch
        return {}

    def score(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> dict[str, float]:
        """Returns the metrics of an evaluation that are no sums over examples.

        Args:
          predictions: of the dataset's first validation records, in their order.
          dataset: what they are of.
          model: what made them.
        """
        del predictions, dataset, model
        return {}

    def resampling(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> tuple[int, Callable[[np.ndarray], dict[str, float]]]:
        """Returns how many examples were scored, and what `score` says of some of them, by their numbers."""

        def of(chosen: np.ndarray) -> dict[str, float]:
            return self.score({name: values[chosen] for name, values in predictions.items()}, dataset, model)

        return len(next(iter(predictions.values()))), of

    def table(self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs) -> str | None:
        """Returns what people look at behind the metrics, such as which classes were taken for which; None: nothing."""
        del predictions, dataset, model

    def answers(
        self, predictions: Mapping[str, np.ndarray], dataset: Dataset, model: ModelInputs
    ) -> Iterator[dict[str, Any]]:
        """Yields each example with what was told of it, as values of JSON; nothing by default."""
        del predictions, dataset, model
        yield from ()


@dataclasses.dataclass(frozen=True)
class TokenObjective(Objective):
    """An objective that predicts tokens, by cross entropy over the vocabulary."""

    z_loss: float = 0.0
    """Weight of log(Z)^2, which keeps the logits from drifting (PaLM, section 5)."""
    label_smoothing: float = 0.0
    """Probability mass spread evenly over the vocabulary (Szegedy et al. 2016)."""
    chunk: int | None = None
    """Positions of the sequences whose logits exist at a time, which saves memory; None: all."""

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "z_loss")
        checks.within(self, "[0, 1)", "label_smoothing")
        checks.at_least(self, 1, "chunk")

    @property
    def head(self) -> str:
        return "language_model"

    @abc.abstractmethod
    def reading(self, seq_len: int) -> Reading: ...

    def input_length(self, seq_len: int) -> int:
        return seq_len

    def setting(self, dataset: Dataset, seq_len: int, model: ModelInputs) -> Setting:
        if not isinstance(dataset, TokenizedDataset):
            raise UserError(f"the objective {self.name} predicts tokens, and --data has none: choose another preset")
        setting = Setting(dataset.vocabulary, seq_len, model.first_decoder_token)
        self.check(setting)
        return setting

    def bare_setting(self, seq_len: int, model: ModelInputs) -> Setting:
        return Setting(Vocabulary.of(ByteTokenizer()), seq_len, model.first_decoder_token)

    def check(self, setting: Setting) -> None:
        """Raises UserError where the tokenizer lacks what the examples need."""
        del setting

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns the sums over the targets; `nll` is the loss without z-loss and smoothing."""
        loss_sum, weight, metrics = cross_entropy(
            outputs.hidden_BTD,
            outputs.unembedding_VD,
            batch["targets"],
            batch["weights"],
            bias=outputs.bias_V,
            chunk=self.chunk,
            z_loss=self.z_loss,
            label_smoothing=self.label_smoothing,
        )
        return loss_sum, weight, {"nll": metrics["nll"], "accuracy": metrics["correct"]}


@dataclasses.dataclass(frozen=True)
class ExampleMaker:
    """The examples of an objective in a setting, one or many at a time, and cut to the longest of a batch
    (`transformer.data.pipeline.MakesBatches` and `CutsBatches`)."""

    objective: Objective
    setting: Any
    """What `Objective.setting` returned."""
    most: int = 1
    """Tokens that the model (its encoder, where it has one) reads of an example, at most."""

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        return self.objective.example(record, rng, self.setting)

    def batch(self, records: Record, rngs: Sequence[np.random.Generator]) -> dict[str, Any]:
        """Returns the examples of many records, stacked."""
        return self.objective.examples(records, rngs, self.setting)

    def cut(self, batch: dict[str, Any], width: int) -> dict[str, Any]:
        """Returns a batch without what is beyond its first `width` tokens, all of it padding."""
        return self.objective.cut(batch, width)
