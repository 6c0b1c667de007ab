"""What every family's config is: a frozen dataclass of plain values, a skeleton that knows no weights."""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.execution import Execution
from transformer.layers.experts_config import ExpertsConfig
from transformer.models.counting import Counts, Places, TokenPlaces
from transformer.params import Parameter, parameters

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What the scores of a classification head are: one of the classes is right; each class is right or not; numbers."""


def unnamed_labels(count: int) -> tuple[str, ...]:
    """Returns what Hugging Face Transformers calls classes without names."""
    return tuple(f"LABEL_{number}" for number in range(count))


class FixedLength(NamedTuple):
    """The places of a stack that reads inputs of a fixed size."""

    places: int
    what: str
    """What they are, in words."""
    fields: tuple[str, ...]
    """Fields of the config that change their number."""


@dataclasses.dataclass(frozen=True)
class Architecture(abc.ABC):
    """A family's config. A subclass has plain fields, checks itself in `__post_init__`, and names its family."""

    family: ClassVar[str]
    """The name under which `transformer.models.FAMILIES` and a checkpoint's architecture.json know it."""
    kind: ClassVar[str]
    """What its inputs are, and so which objectives fit it: "decoder", "encoder" or "encoder_decoder" of tokens, or
    whatever else a family reads."""
    tasks: ClassVar[frozenset[str]] = frozenset()
    """What it can be pretrained to tell besides words: "sentence" (whether B follows A, or their order), "boundary"
    (words, from what is around their span)."""
    first_position: ClassVar[int] = 0
    """The row of a table of positions that a first token takes; those before it are never looked up."""
    pre_norm: ClassVar[bool] = False
    """Whether what is added to the stream of a block is normed alone (pre-norm), not together with the stream."""

    vocab_size: int | None
    """Kinds of tokens: the tokenizer has at most so many; None: it reads no tokens."""
    head: str
    """What the hidden states are for."""
    num_labels: int
    """Classes of a classification head."""
    width: int
    """D: model width, of the residual stream or streams."""
    labels: tuple[str, ...] = ()
    """Names of the classes of a classification head, in order; empty: they have none."""
    problem_type: ProblemType | None = None
    """What the scores of a classification head are; None: of one class alone a number, of more one is right."""

    def check_labels(self) -> None:
        """Raises `FieldError` where the classes are not counted, or named, as they should be."""
        checks.at_least(self, 1, "num_labels")
        named = not self.labels or len(self.labels) == self.num_labels
        checks.rule(self, "num_labels", named, f"`labels` names {len(self.labels)} classes, from {self.labels[:1]}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; LABEL_0, LABEL_1, ... where they have none."""
        return self.labels or unnamed_labels(self.num_labels)

    @property
    def problem(self) -> ProblemType:
        """What the scores of its classification head are."""
        if self.problem_type is not None:
            return self.problem_type
        return "regression" if self.num_labels == 1 else "single_label_classification"

    @abc.abstractmethod
    def build(self, execution: Execution) -> nn.Module:
        """Returns the module: the model without its weights."""

    @property
    @abc.abstractmethod
    def stacks(self) -> dict[str, int]:
        """Module of the backbone that holds a stack of layers -> how many."""

    @property
    def depth(self) -> int:
        """Layers, of the deeper side where there are two."""
        return max(self.stacks.values())

    @property
    def longest_input(self) -> int | None:
        """The most tokens that it can look at; None: any number, since its positions have no last one."""
        return None

    @property
    def fewest_layers(self) -> int:
        """The least number of layers that has every kind of them, of the deeper side where there are two."""
        return len(self.attention_windows)

    @property
    def routing(self) -> ExpertsConfig | None:
        """The experts that stand in the place of feed-forward layers; None where there are none."""
        return None

    @property
    def first_decoder_token(self) -> int | None:
        """The id that the decoder of an encoder-decoder reads first; None where there is none."""
        return None

    @property
    def scales_scores(self) -> bool:
        """Whether attention divides its scores by the square root of the head width."""
        return True

    @property
    def embedding_scale(self) -> float:
        """What words' vectors are multiplied with."""
        return 1.0

    @property
    def unembedding_scale(self) -> float:
        """What is multiplied with the hidden states that meet the embedding as unembedding."""
        return 1.0

    @property
    @abc.abstractmethod
    def tied_norms(self) -> tuple[str, ...]:
        """Paths of the norms whose output meets the embedding as unembedding, and nothing else; of a stack's norms the
        last one. Empty where the head has a matrix of its own, or scores no words."""

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        """How many tokens back a causal layer's queries see, themselves included; None: all. Layers take turns."""
        return (None,)

    @property
    def input_size(self) -> tuple[int, ...]:
        """What the arrays that it reads beside tokens, or in their place, are in size: (height, width, channels) of an
        image, (frames, bins) of a spectrogram; empty where it reads tokens alone."""
        return ()

    @property
    def fixed_length(self) -> int | None:
        """Places that its first stack always has, of inputs whose size is fixed: patches and what joins them, frames;
        None: as many as it is given."""
        return None

    @property
    def fixed_lengths(self) -> tuple[FixedLength, ...]:
        """The lengths that its stacks always have, of inputs whose size is fixed; that of a tower beside another, and
        of a decoder of pixels, too."""
        return ()

    @property
    def places(self) -> Places:
        """How many places of an example meet what, for counting FLOPs."""
        return TokenPlaces(self.kind, self.head, self.attention_windows)

    def example_inputs(self, batch: int = 1, length: int = 1) -> dict[str, Any]:
        """Returns inputs of the model, all zeros: what its `init` needs. A family that reads no tokens has others."""
        tokens = jnp.zeros((batch, length), jnp.int32)
        inputs = {"tokens": tokens, "positions": tokens, "segment_ids": tokens}
        if self.kind == "encoder_decoder":
            inputs |= {f"decoder_{name}": array for name, array in inputs.items()}
        return inputs

    def abstract_params(self) -> Any:
        """Returns the tree of shapes, dtypes and logical axis names of the parameters; allocates nothing."""
        return _abstract_params(self)

    def num_params(self) -> int:
        """Returns the number of parameters, tied ones counted once."""
        return sum(parameter.size for parameter in self.counts.parameters)

    def active_params(self) -> int:
        """Returns the number of parameters that a token meets: of the experts those that it chooses."""
        return sum(round(parameter.size * self.counts.share(parameter)) for parameter in self.counts.parameters)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Path -> parameter, without its values."""
        return parameters(self.abstract_params())

    @property
    def counts(self) -> Counts:
        """What the model has and what it costs, by kind: parameters, and FLOPs of training."""
        return _counts(self)

    def flops_per_example(self, length: int, target_length: int = 0) -> float:
        """Returns the FLOPs of training on one example, forward and backward: the sum of `Counts.flops_by_kind`.

        Args:
          length: tokens of the sequence; of the encoder's, where there are two.
          target_length: tokens of the decoder's sequence, in an encoder-decoder.
        """
        return sum(self.counts.flops_by_kind(length, target_length).values())

    def flops_per_token(self, length: int, target_length: int = 0) -> float:
        """Returns `flops_per_example`, a token read by encoder or decoder."""
        return self.flops_per_example(length, target_length) / (length + target_length)


def undivided_lengths(architecture: Architecture, sequence: int) -> list[str]:
    """Returns the fixed lengths of a model that so many devices along `sequence` do not divide, a line each."""
    lines = []
    for places, what, fields in architecture.fixed_lengths:
        if places % sequence:
            flags = " or ".join(f"--model.{field.replace('_', '-')}" for field in fields)
            refused = f"--mesh.sequence {sequence} does not divide the {places:,} places of {what}"
            lines.append(f"{refused}: change it, or {flags}")
    return lines


@functools.lru_cache(maxsize=64)  # telling a folder's head asks for every head's: nine of BERT's
def _abstract_params(architecture: Architecture) -> Any:
    """Traces the model, which takes a tenth of a second and more: once an architecture, however often it is asked."""
    module = architecture.build(Execution())
    return jax.eval_shape(lambda: module.init(jax.random.key(0), **architecture.example_inputs()))["params"]


@functools.lru_cache(maxsize=512)
def _counts(architecture: Architecture) -> Counts:
    arrays, routing = tuple(architecture.parameters.values()), architecture.routing
    return Counts(
        arrays,
        architecture.head,
        architecture.stacks,
        architecture.places,
        1.0 if routing is None else routing.experts_per_token / routing.num_experts,
    )
