"""Memory: what a step takes of a device, from the parameters' shapes, the lengths and the mesh; no compiler.

With `arithmetic` this is the analytic model. It keeps to what the compiled program was seen to do (docs/parallelism.md,
docs/planning.md): parameters, moments and gradients in float32; a layer's parameters gathered in the dtype of compute,
one layer while the next is on its way; the loss in chunks, against the whole of a device's vocabulary.
"""

import dataclasses
import math

from transformer.planning.activations import all_layers, entering, kept_by, policy_of, probabilities
from transformer.planning.division import Division, of_layers, stack_of
from transformer.training.optimizer import muon_axes

FLOAT32 = 4


_FACTORED = 128
"""Numbers of a dimension from which on Adafactor keeps its moment as rows and columns (optax's default)."""


SCORES = 4
"""Arrays of scores' size, in float32, that the loss of words holds at a time: the scores, their exponentials, their
gradient, and what the next product reads."""


@dataclasses.dataclass(frozen=True)
class MemoryParts:
    """Bytes of one device, by what they are for."""

    weights: float
    moments: float
    gradients: float
    activations: float
    """What the forward pass keeps for the backward one."""
    working: float
    """What the largest layer, or the loss, needs besides while it is computed: gathered parameters too."""

    @property
    def state(self) -> float:
        """What lasts from step to step."""
        return self.weights + self.moments

    @property
    def peak(self) -> float:
        """The most at a time."""
        return self.state + self.gradients + self.activations + self.working


def memory(division: Division, *, kernel: bool) -> MemoryParts:
    """Returns the memory of a device.

    Args:
      division: the step, divided.
      kernel: whether attention is a kernel that never writes its scores.
    """
    parameters, train = division.parameters, division.experiment.train
    weights = FLOAT32 * sum(map(division.of_device, parameters))
    # The sum over microbatches and the gradients of one of them.
    gradients = weights * (2 if train.accumulation > 1 else 1)
    kept = _kept(division, kernel=kernel)
    in_backward = gradients + _layer(division, kernel=kernel)
    in_loss = (gradients if train.accumulation > 1 else 0) + _loss(division)
    activations = kept + _hidden(division)
    working = max(in_backward, in_loss) - gradients
    return MemoryParts(weights, moments(division), gradients, activations, max(working, 0.0))


def moments(division: Division) -> float:
    """Returns the bytes of the optimizer's moments that one device holds."""
    name, zero1 = division.experiment.optimizer.name, division.experiment.mesh.zero1
    copies = division.sizes["data"] if zero1 else 1
    numbers = 0.0
    for parameter in division.parameters:
        held = division.of_device(parameter)
        held /= copies if held % copies == 0 else 1
        if name == "adafactor":
            large = sorted(parameter.shape)[-2:]
            factored = len(large) == 2 and large[0] >= _FACTORED
            size = math.prod(parameter.shape)
            numbers += sum(size / dimension for dimension in large) if factored else held
        else:
            numbers += held * _MOMENTS.get(name, 1 if muon_axes(parameter.path, parameter.names) is not None else 2)
    return FLOAT32 * numbers


_MOMENTS = {"adamw": 2, "lamb": 2, "lion": 1}
"""Optimizer -> moments a parameter; Muon has one of matrices and AdamW's two of everything else."""


def _kept(division: Division, *, kernel: bool) -> float:
    """Returns the bytes that the forward pass of all of a device's layers keeps."""
    layers = kept_by(division, policy_of(division), kernel=kernel)
    if division.pipeline is not None:  # three arrays of the rows of a tick, and one tick's layers
        streams = 3 * entering(division) / division.depth * division.ticks_ratio
        return streams + layers / division.pipeline.microbatches
    return layers


def _layer(division: Division, *, kernel: bool) -> float:
    """Returns the bytes that one layer's backward pass needs besides what is kept."""
    remat = division.experiment.execution.remat
    one = all_layers(division, kernel=kernel) / division.steps
    again = 0.0 if remat == "none" else one
    weights: dict[str, float] = {}
    for parameter in filter(of_layers, division.parameters):
        copies = 2 * division.itemsize + FLOAT32 if division.gathering(parameter) else division.itemsize
        if "experts" in parameter.names:  # their gradients are made in one layout and scattered in another
            copies += 2 * FLOAT32
        amount = copies * division.gathered(parameter) / division.layers(parameter)
        weights[stack_of(parameter)] = weights.get(stack_of(parameter), 0.0) + amount
    # Without a kernel, a layer's scores and their gradient are there in float32, of all blocks of queries at a time.
    scores = 0.0 if kernel else 2 * FLOAT32 / division.itemsize * probabilities(division) / division.steps
    of_a_layer = max(weights.values(), default=0.0) * division.steps / division.depth  # gathered one after another
    return again + one / 2 + of_a_layer + scores


def _hidden(division: Division) -> float:
    """Returns the bytes of what the head reads, and its gradient."""
    model, lengths = division.experiment.model, division.experiment.lengths
    words = model.counts.places.words(*lengths) / division.sizes["sequence"]
    return 2 * division.itemsize * division.rows * words * model.width


def word_scores(division: Division) -> float:
    """Returns how many scores of words a device computes in a microbatch; 0 of a head that scores none."""
    model = division.experiment.model
    if model.vocab_size is None or not scores_words(division):
        return 0.0
    words = division.scored_words / division.sizes["sequence"]
    return division.rows * words * model.vocab_size / division.split("vocab")


def scores_words(division: Division) -> bool:
    """Whether the head multiplies hidden states with the words' vectors."""
    return division.experiment.model.head in ("language_model", "masked_lm", "pretraining")


def _loss(division: Division) -> float:
    """Returns the bytes that the loss of words needs: scores, the whole unembedding, and its float32 gradient."""
    model, objective = division.experiment.model, division.experiment.objective
    if not scores_words(division) or model.vocab_size is None:
        return 0.0
    chunk, length = getattr(objective, "chunk", None), division.scored_words / division.sizes["sequence"]
    share = 1.0 if chunk is None else min(chunk / length, 1.0)
    unembedding = model.vocab_size * model.width / division.split("vocab")
    # A gather along the width comes in parts, which are then put together.
    copies = 2 if division.split("embed") > 1 else 1
    return SCORES * FLOAT32 * word_scores(division) * share + (copies * division.itemsize + FLOAT32) * unembedding
