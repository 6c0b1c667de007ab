"""AdapterConfig: which parameters are trained beside a frozen model."""

import dataclasses
import math
import re
from typing import Literal

from transformer import checks
from transformer.checks import FieldError

BaseDtype = Literal["float32", "bfloat16", "int8"]
"""Dtypes that a frozen base may be held in."""


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Low-rank factors (LoRA) beside the frozen kernels of the weights that a run starts from; rank 0: none.

    Trained are the factors, what `whole` names, and the arrays that the weights lack or that are made longer, such as a
    new head. All else is frozen, and in no checkpoint of the run.
    """

    rank: int = 0
    """Width of the factors; 0: there is no adapter, all parameters are trained."""
    alpha: float = 16.0
    """The factors' product is multiplied with alpha / rank (Hu et al. 2021, section 4.1)."""
    rslora: bool = False
    """Multiply with alpha / sqrt(rank) instead, so that large ranks learn too (Kalajdzievski 2023)."""
    dora: bool = False
    """Learn the length of each output's weights apart from their direction (Liu et al. 2024, DoRA)."""
    dropout: float = 0.0
    """Probability with which what goes into the factors is dropped in training."""
    leaves: str | None = None
    """A regular expression that the whole paths of the kernels to adapt match, such as `.*(query|value).*`. None: all
    kernels of linear layers, experts' too, in the backbone's blocks."""
    whole: str | None = None
    """A regular expression that the whole paths of the arrays match that are trained themselves, such as `head/.*`."""
    base_dtype: BaseDtype = "float32"
    """Dtype of the frozen matrices in memory: float32, bfloat16, or int8 for the kernels of linear layers and experts,
    with a float32 scale for each output, and bfloat16 for all other matrices. Vectors stay in float32."""

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "rank")
        checks.above(self, 0, "alpha")
        checks.within(self, "[0, 1)", "dropout")
        for field in dataclasses.fields(self):
            is_default = getattr(self, field.name) == field.default
            checks.rule(self, field.name, is_default or self.rank > 0, "there is no adapter: give a `rank`")
        for name in ("leaves", "whole"):
            try:
                re.compile(getattr(self, name) or "")
            except re.error as error:
                value = getattr(self, name)
                raise FieldError(AdapterConfig, f"`{name}` {value!r} is not a regular expression: {error}") from error

    @property
    def scale(self) -> float:
        """What the factors' product is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
