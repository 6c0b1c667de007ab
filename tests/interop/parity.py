"""What every family is held to: Transformers' own model with random weights, in odd shapes.

Numbers of all outputs, gradients of a loss, weights there and back, and a folder that Transformers loads again. Weights
are compared by the names in the files that Transformers saves, which need not be those of a model's `state_dict()`.
"""

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

from transformer.interop.family import Family
from transformer.interop.folder import write_folder
from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture

TOLERANCE = 1e-5
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
"""Options of `from_pretrained`: plain code. Its kernels of experts refuse odd shapes."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """One architecture on both sides, with the same random weights."""

    family: Family
    config: Architecture
    theirs: Any
    """Transformers' model, in evaluation mode."""
    tensors: dict[str, np.ndarray]
    """Tensors of the file that it saves."""
    params: Any
    """Our parameters, from those tensors."""

    def apply(self, inputs: Mapping[str, Any]) -> Any:
        """Returns our model's outputs."""
        return jax.jit(self.config.build(Execution()).apply)({"params": self.params}, **inputs)


def make_pair(
    family: Family, config: Architecture, *, change: Callable[[Any], None] = lambda model: None, **hf_fields: Any
) -> Pair:
    """Returns both sides: their model made from the config.json that we write, its weights random.

    Args:
      family: the family in Transformers.
      config: our config.
      change: a further change of their model's weights.
      **hf_fields: further fields of config.json, which our config lacks (special ids).
    """
    fields = family.write_config(config) | hf_fields
    names = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None} | fields
    [cls] = names.pop("architectures")
    hf_config = transformers.AutoConfig.for_model(names.pop("model_type"), **names)
    hf_config._attn_implementation = hf_config._experts_implementation = "eager"
    model = getattr(transformers, cls)(hf_config).eval()
    randomise(model)
    change(model)
    tensors = saved(model)
    return Pair(family, config, model, tensors, family.from_hf(tensors, config))


def saved(model: Any) -> dict[str, np.ndarray]:
    """Returns the tensors of the file that Transformers saves, a tied one under the first of its names alone."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def in_memory(model: Any) -> dict[str, np.ndarray]:
    """Returns the tensors by every name that the model has for them, as older files hold them."""
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def saved_gradients(model: Any) -> dict[str, np.ndarray]:
    """Returns the gradients of a model's parameters by the names in its file; what has none is left out."""
    gradients = copy.deepcopy(model)
    with torch.no_grad():
        for buffer in gradients.buffers():
            if buffer.is_floating_point():
                buffer.fill_(torch.nan)
        for gradient, parameter in zip(gradients.parameters(), model.parameters(), strict=True):
            gradient.copy_(torch.full_like(parameter, torch.nan) if parameter.grad is None else parameter.grad)
    return {name: array for name, array in saved(gradients).items() if not np.isnan(array).all()}


def randomise(model: torch.nn.Module) -> None:
    """Fills the parameters: larger than at initialisation, biases too, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:  # sinusoids
                continue
            is_scale = parameter.ndim == 1 and name.endswith("weight")  # a norm's
            parameter.normal_(1.0 if is_scale else 0.0, 0.2, generator=generator)


def rows(config: Architecture, length: int, *, seed: int = 0, low: int = 0) -> dict[str, np.ndarray]:
    """Returns three rows of tokens, positions and segment ids: one full, one padded on the left, one on the right."""
    rng = np.random.default_rng(seed)
    segments = np.ones((3, length), np.int32)
    segments[1, :3] = 0
    segments[2, -4:] = 0
    return {
        "tokens": rng.integers(low, config.vocab_size, (3, length)).astype(np.int32),
        "positions": np.maximum(np.cumsum(segments, axis=1, dtype=np.int32) - 1, 0),
        "segment_ids": segments,
    }


def tensor(array: Any) -> torch.Tensor:
    """Returns PyTorch's tensor; integers as int64."""
    out = torch.tensor(np.asarray(array))
    return out if out.is_floating_point() else out.long()


def assert_near(have: Any, want: Any, real: np.ndarray | None = None, tolerance: float = TOLERANCE) -> None:
    """Asserts a largest absolute difference below the tolerance, where `real` [B, T] is true."""
    want = want.detach().numpy() if isinstance(want, torch.Tensor) else np.asarray(want)
    have = np.asarray(have)
    assert have.shape == want.shape, (have.shape, want.shape)
    difference = np.abs(have - want)
    difference = difference if real is None else difference[real]
    assert difference.size > 0
    assert difference.max() < tolerance, f"largest difference {difference.max():.3g}"


def assert_gradients(
    pair: Pair, inputs: Mapping[str, Any], score: Any, their_score: Any, tolerance: float = 1e-5
) -> None:
    """Asserts equal gradients of a scalar, compared by the names in Transformers' files.

    Args:
      pair: both sides.
      inputs: of ours.
      score: our outputs -> a scalar.
      their_score: their model -> the same scalar.
      tolerance: absolute, for gradients of about 1.
    """
    model = pair.config.build(Execution())
    gradients = jax.jit(jax.grad(lambda params: score(model.apply({"params": params}, **inputs))))(pair.params)
    pair.theirs.zero_grad()
    their_score(pair.theirs).backward()
    have, want = dict(pair.family.stream(gradients, pair.config)), saved_gradients(pair.theirs)
    for name, gradient in want.items():
        np.testing.assert_allclose(have[name], gradient, atol=tolerance, rtol=1e-5, err_msg=name)
    assert len(want) > 5


def weighted_sum(scores: jax.Array, seed: int = 0) -> tuple[jax.Array, np.ndarray]:
    """Returns a fixed random projection of scores to a scalar, and its weights for the other side."""
    weights = np.random.default_rng(seed).normal(size=scores.shape).astype(np.float32) / scores.size**0.5
    return jnp.sum(scores * weights), weights


def assert_there_and_back(pair: Pair) -> None:
    """Asserts that the weights go out as they came in, bit for bit, and that our configs survive the journey.

    What goes out is what Transformers saves, and constants that it leaves out, such as Marian's sinusoids.
    """
    back = dict(pair.family.stream(pair.params, pair.config))
    constants = pair.family.table(pair.config).constants.keys()
    assert back.keys() - constants <= pair.tensors.keys() <= back.keys()
    want = in_memory(pair.theirs) | pair.tensors
    for name, array in back.items():
        np.testing.assert_array_equal(array, want[name], err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, pair.family.from_hf(back, pair.config), pair.params)
    head, labels = pair.config.head, pair.config.num_labels
    assert pair.family.read_config(pair.family.write_config(pair.config), head, labels) == pair.config
    assert pair.family.read_config(pair.theirs.config.to_dict(), head, labels) == pair.config


def assert_reloads(pair: Pair, folder: Any, outputs: Any) -> None:
    """Asserts that Transformers loads the folder that we write, no key missing or unexpected, and computes the same.

    Args:
      pair: both sides.
      folder: a pathlib.Path, not yet there.
      outputs: their model -> a tensor of scores.
    """
    write_folder(folder, pair.family.write_config(pair.config), pair.family.stream(pair.params, pair.config))
    cls = type(pair.theirs)
    reloaded, report = cls.from_pretrained(folder, output_loading_info=True, **EAGER)
    problems = {kind: names for kind, names in report.items() if names}
    assert not problems, problems
    with torch.no_grad():
        # Not 0: PyTorch's sums depend on where in memory the weights lie.
        torch.testing.assert_close(outputs(reloaded.eval()), outputs(pair.theirs), rtol=0, atol=1e-6)
