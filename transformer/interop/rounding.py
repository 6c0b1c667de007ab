"""PyTorch's outputs in float64, against which the rounding of a right float32 implementation is measured."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Widened(TorchFunctionMode):
    """Turns every float32 that a model names (in norms, softmaxes and rotary angles) into float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = torch.Tensor.double if func is torch.Tensor.float else func
        return func(*map(_widened, args), **{name: _widened(value) for name, value in (kwargs or {}).items()})


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def in_float64(model: Any, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Returns a PyTorch model's outputs on some inputs in float64; the model stays in float64.

    Args:
      model: a module whose parameters are in float32.
      inputs: its keyword arguments.
    """
    model.double()  # in place, a parameter at a time: twice the memory of float32, not three times
    wide = {name: array.double() if array.is_floating_point() else array for name, array in inputs.items()}
    with torch.no_grad(), _Widened():
        return model(**wide)
