"""Tell the pixels of hidden patches: masked autoencoding (He et al. 2022)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.images.dataset import ImageDataset
from transformer.data.images.records import ImageReading
from transformer.data.records import Record
from transformer.errors import UserError
from transformer.objectives.objective import ModelInputs, Objective


class _Patches(NamedTuple):
    """What a masked autoencoder reads of an image."""

    size: int
    """Pixels of a side of a patch."""
    kept: int
    """Patches that it reads."""


@dataclasses.dataclass(frozen=True)
class MaskedPixels(Objective):
    """The mean squared error over the pixels of hidden patches, one number a patch."""

    name: ClassVar[str] = "masked_pixels"
    kind: ClassVar[str] = "image_encoder"

    normalised: bool = True
    """Whether the pixels of each patch are told relative to their mean and deviation (section 4.1)."""
    epsilon: float = 1e-6
    """Added to the variance of a patch's pixels."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "epsilon")

    @property
    def head(self) -> str:
        return "masked_pixels"

    def reading(self, seq_len: int) -> ImageReading:
        del seq_len
        return ImageReading()

    def setting(self, dataset: Dataset, seq_len: int, model: ModelInputs) -> _Patches:
        if not isinstance(dataset, ImageDataset):
            raise UserError(f"the objective {self.name} reads images, and --data has none: choose another preset")
        return self.bare_setting(seq_len, model)

    def bare_setting(self, seq_len: int, model: ModelInputs) -> _Patches:
        del seq_len
        return _Patches(getattr(model, "patch_size"), getattr(model, "kept_patches"))  # noqa: B009 - of its models alone

    def example(self, record: Record, rng: np.random.Generator, setting: _Patches) -> dict[str, Any]:
        """Returns an image, which of its patches are read, and the pixels and weights of all.

        Args:
          record: `image` [H, W, C] and `there`.
          rng: chooses the patches.
          setting: their size and number.
        """
        image, size = record["image"], setting.size
        height, width, channels = image.shape
        grid = image.reshape(height // size, size, width // size, size, channels).transpose(0, 2, 1, 3, 4)
        pixels = grid.reshape(-1, size * size * channels)
        kept = np.sort(rng.permutation(len(pixels))[: setting.kept]).astype(np.int32)
        weights = np.full(len(pixels), record["there"], np.float32)
        weights[kept] = 0
        if self.normalised:
            mean, variance = pixels.mean(axis=1, keepdims=True), pixels.var(axis=1, keepdims=True)
            pixels = (pixels - mean) / np.sqrt(variance + self.epsilon)
        return {"inputs": {"images": image, "kept": kept}, "targets": pixels.astype(np.float32), "weights": weights}

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns the sums over hidden patches of the mean squared error of their pixels."""
        errors_BPC = (outputs.pixels_BPC.astype(jnp.float32) - batch["targets"]) ** 2
        loss_sum = (errors_BPC.mean(axis=-1) * batch["weights"]).sum()
        return loss_sum, batch["weights"].sum(), {"nll": loss_sum}
