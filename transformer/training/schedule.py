"""Learning-rate schedules, of numbers that a compiled step takes as arguments.

Runs that differ in their length, their rate or their schedule share one compiled program: a sweep compiles once a
model, and a run that is made longer does not compile anew.
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

ScheduleName = Literal["cosine", "linear", "constant", "inverse_sqrt", "wsd"]
_NAMES = get_args(ScheduleName)


class Rates(NamedTuple):
    """The learning rates of one update, each float32 []."""

    main: Any
    """The schedule's."""
    second: Any
    """The rate of what muon leaves to AdamW."""


class Schedule(NamedTuple):
    """Update number (0 for the first) -> learning rate; a tree of numbers."""

    kind: Any
    """int32: the place of its name in `ScheduleName`."""
    peak: Any
    """float32, like all that follow: the rate after the warmup."""
    final: Any
    """The last update's rate, as a fraction of the peak."""
    warmup: Any
    """Updates of the linear rise from 0."""
    decay: Any
    """Updates from the warmup's end to the last."""
    cooldown: Any
    """Updates of wsd's decay."""
    second: Any
    """Another peak, that of what muon leaves to AdamW, as a fraction of the peak."""

    def __call__(self, count: Any) -> jax.Array:
        """Returns float32 [], the rate of the update that comes after `count` others."""
        count = jnp.asarray(count, jnp.float32)
        after = count - self.warmup
        progress = jnp.clip(after / self.decay, 0.0, 1.0)
        cooled = jnp.clip((after - jnp.maximum(self.decay - self.cooldown, 0.0)) / self.cooldown, 0.0, 1.0)
        fractions = {
            "cosine": self.final + (1.0 - self.final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "linear": 1.0 + (self.final - 1.0) * progress,
            "constant": jnp.ones_like(count),
            "inverse_sqrt": jnp.sqrt(self.warmup / jnp.maximum(count, 1.0)),
            "wsd": self.final + (1.0 - self.final) * (1.0 - jnp.sqrt(cooled)),
        }
        fraction = jnp.stack([fractions[name] for name in _NAMES])[self.kind]
        return self.peak * jnp.where(after < 0, count / jnp.maximum(self.warmup, 1.0), fraction)

    def rates(self, count: Any) -> Rates:
        """Returns the rates of the update that comes after `count` others."""
        return Rates(self(count), self._replace(peak=self.peak * self.second)(count))


def schedule(
    name: ScheduleName, *, peak: float, final: float, warmup: int, steps: int, cooldown: int, second: float
) -> Schedule:
    """Returns the schedule of a run of `steps` updates, of NumPy numbers; the arguments are those of its fields."""
    decay = max(steps - 1 - warmup, 1)  # the last update of the run is number `steps - 1`: that one gets the final rate
    numbers = (peak, final, warmup, decay, max(cooldown, 1), second)
    return Schedule(np.int32(_NAMES.index(name)), *(np.float32(number) for number in numbers))
