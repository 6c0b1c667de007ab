"""Which images a run reads, how they are cut to size, and how they are varied."""

import dataclasses
from typing import ClassVar, Literal, Self

from transformer import checks
from transformer.data.dataset import DataConfig
from transformer.paths import absolute

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclasses.dataclass(frozen=True)
class ImagesConfig(DataConfig):
    """Images with their classes, or with captions."""

    kind: ClassVar[str] = "images"
    identity: ClassVar[tuple[str, ...]] = ("path", "tfds", "embedded")
    paths: ClassVar[tuple[str, ...]] = ("path", "tokenizer")
    places: ClassVar[tuple[str, ...]] = (*paths, "tfds", "cache_dir")

    path: str | None = None
    """A folder with a folder of images for each class, perhaps below train and validation (or val, or test); one with
    the idx files of MNIST and its kin; .parquet files with the columns image and label or caption; .tar shards of
    WebDataset; or a .tsv or .jsonl file of image paths and captions. Overrides `tfds` and `embedded`."""
    tfds: str | None = None
    """A TFDS dataset, NAME or NAME/CONFIG, with the features image and label. Overrides `embedded`."""
    embedded: Literal["digits", "shapes"] = "digits"
    """What needs no files: `digits`, 1,797 handwritten ones of 8 x 8 pixels (scikit-learn's); `shapes`, two of them
    drawn side by side or above each other, with a caption."""
    validation_fraction: float = 0.05
    """The part of the images (0 to 1) held out for validation, where they have no validation split of their own."""
    resize: Literal["crop", "squash"] = "crop"
    """How an image that is no square is made one: its shorter side is resized and the middle cut out, or both sides
    are resized."""
    edge: int | None = None
    """Pixels that the shorter side is resized to before the middle is cut out; None: the model's image size."""
    resample: Resample = "bicubic"
    """How pixels are resized, by Pillow."""
    mean: tuple[float, ...] = (0.5,)
    """What is taken from each channel, which run from 0 to 1; one number stands for all channels."""
    std: tuple[float, ...] = (0.5,)
    """What each channel is divided by then."""
    crop: tuple[float, float] | None = None
    """The least and the largest share of an image's area that a random crop takes in training, such as 0.08 1.0
    (Szegedy et al. 2015); None: images are cut as in validation."""
    flip: float = 0.0
    """Probability of showing an image mirrored, left for right, in training."""
    shift: int = 0
    """Pixels by which an image is moved at random in training, at most, each way; what comes in is its edge."""
    randaugment: int = 0
    """Operations of RandAugment (Cubuk et al. 2020) on an image in training; 0: none."""
    randaugment_magnitude: int = 9
    """How far they go, of 30."""
    mixup: float = 0.0
    """Alpha of the Beta distribution by which an image and another are mixed (Zhang et al. 2018); 0: none is."""
    cutmix: float = 0.0
    """Alpha of the Beta distribution by which a part of an image is replaced by another's (Yun et al. 2019); 0: none
    is. With `mixup`, each image gets one of both."""
    tokenizer: str = "bytes"
    """Tokenizer of captions: `unigram` or `bpe` (SentencePiece, trained on them), `bytes`, or the path of a Hugging
    Face tokenizer.json or of a SentencePiece .model."""
    skip_damaged: bool = False
    """Leave out images that cannot be read, in place of stopping: each is named once, and listed in a file below
    `cache_dir`/left-out."""
    changed: bool = False
    """The images are meant to be others than those that the run began with. Not recorded: it holds for one start."""
    cache_dir: str = "~/.cache/transformer"
    """The folder that keeps prepared TFDS data, trained tokenizers and lists of images left out; safe to delete."""
    workers: int = 0
    """Processes of each host that make training batches; 0: a thread of the training process. The batches are the
    same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within(self, "[0, 1)", "validation_fraction")
        checks.within(self, "[0, 1]", "flip")
        checks.at_least(self, 0, "shift", "randaugment", "mixup", "cutmix")
        checks.at_least(self, 1, "edge")
        inside = 0 <= self.randaugment_magnitude <= 30
        checks.rule(self, "randaugment_magnitude", inside, "it runs from 0 to 30")
        crop = self.crop is None or 0 < self.crop[0] <= self.crop[1] <= 1
        checks.rule(self, "crop", crop, "give shares of the area, rising, above 0 and up to 1")
        checks.rule(self, "mean", len(self.mean) > 0, "give a number, or one for each channel")
        checks.rule(self, "std", len(self.std) > 0 and min(self.std) > 0, "give positive numbers")

    @property
    def sources(self) -> tuple[str, ...]:
        if self.path is not None:
            return (self.path,)
        return (f"tfds:{self.tfds}" if self.tfds is not None else self.embedded,)

    def flag(self, source: str) -> str:
        if self.path is not None:
            return f"data.path {source}"
        return f"data.tfds {self.tfds}" if self.tfds is not None else f"data.embedded {source}"

    def absolute(self) -> Self:
        return dataclasses.replace(self, path=None if self.path is None else absolute(self.path))
