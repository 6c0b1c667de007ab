"""Tell what an image shows: classes, as Dosovitskiy et al. 2021 and Touvron et al. 2021 train for them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data.dataset import Dataset
from transformer.data.images.dataset import ImageDataset
from transformer.data.images.records import ImageReading
from transformer.data.records import Record
from transformer.errors import UserError
from transformer.objectives.objective import ModelInputs, Objective

_TOP = 5


@dataclasses.dataclass(frozen=True)
class ImageClassification(Objective):
    """Cross entropy over classes; images that were mixed have the classes of both, by their shares."""

    name: ClassVar[str] = "image_classification"
    kind: ClassVar[str] = "image_encoder"

    label_smoothing: float = 0.0
    """Probability mass spread evenly over the classes (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        checks.within(self, "[0, 1)", "label_smoothing")

    @property
    def head(self) -> str:
        return "image_classification"

    def reading(self, seq_len: int) -> ImageReading:
        del seq_len
        return ImageReading()

    def setting(self, dataset: Dataset, seq_len: int, model: ModelInputs) -> int:
        """Returns the number of the model's classes; UserError where the dataset has more."""
        del seq_len
        if not isinstance(dataset, ImageDataset):
            raise UserError(f"the objective {self.name} tells classes, and --data has none: choose another preset")
        if len(dataset.labels) > model.num_labels:
            raise UserError(
                f"--model.num-labels {model.num_labels}: the data have {len(dataset.labels)} classes, from "
                f"{dataset.labels[0]} to {dataset.labels[-1]}: give {len(dataset.labels)}"
            )
        return model.num_labels

    def bare_setting(self, seq_len: int, model: ModelInputs) -> int:
        del seq_len
        return model.num_labels

    def example(self, record: Record, rng: np.random.Generator, setting: int) -> dict[str, Any]:
        """Returns an image and the share of each class in it.

        Args:
          record: `image`, `label`, `other_label`, `share` and `there`, as `ImageRecords` has them.
          rng: not used.
          setting: C.
        """
        batch = self.examples({name: value[None] for name, value in record.items()}, [rng], setting)
        return {"inputs": {"images": record["image"]}, "targets": batch["targets"][0], "weights": record["there"]}

    def examples(self, records: Record, rngs: Sequence[np.random.Generator], setting: int) -> dict[str, Any]:
        rows = np.arange(len(rngs))
        targets = np.zeros((len(rngs), setting), np.float32)
        targets[rows, records["other_label"]] += 1 - records["share"]
        targets[rows, records["label"]] += records["share"]
        return {"inputs": {"images": records["image"]}, "targets": targets, "weights": records["there"]}

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Returns the sums over images; `nll` is the loss without smoothing. `top5` is there from six classes on."""
        logs_BC = jax.nn.log_softmax(outputs.logits.astype(jnp.float32))
        targets_BC, weights_B = batch["targets"], batch["weights"]
        nll_B = -(targets_BC * logs_BC).sum(axis=-1)
        smooth = self.label_smoothing
        loss_B = (1 - smooth) * nll_B - smooth * logs_BC.mean(axis=-1)
        score_B1 = jnp.take_along_axis(logs_BC, targets_BC.argmax(axis=-1)[:, None], axis=-1)
        better_B = (logs_BC > score_B1).sum(axis=-1)  # classes that are told before the right one
        metrics = {"nll": nll_B, "accuracy": (better_B == 0).astype(jnp.float32)}
        if logs_BC.shape[-1] > _TOP:
            metrics["top5"] = (better_B < _TOP).astype(jnp.float32)
        sums = {name: (values * weights_B).sum() for name, values in metrics.items()}
        return (loss_B * weights_B).sum(), weights_B.sum(), sums
