"""Tell what images show, by a run.

python tools/classify.py RUN --image FILE [--attention OUT.png]
python tools/classify.py RUN --image FILE --labels "a cat" "a dog"     # of a model of images and texts
"""

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import tyro

from transformer import checks, command
from transformer.errors import UserError
from transformer.inference.templates import PLAIN
from transformer.paths import expanded

if TYPE_CHECKING:
    from PIL.Image import Image

    from transformer.inference.image_classifier import Guess, ImageClassifier
    from transformer.inference.restored import Restored


@dataclasses.dataclass(frozen=True)
class Command:
    """Tell the classes of images with the newest checkpoint of a run, or an imported model.

    A model of images and texts (CLIP, SigLIP) has no classes of its own: it tells which of --labels an image shows.
    """

    run: tyro.conf.Positional[str]
    """A run folder, or one of its checkpoints (RUN/checkpoints/STEP)."""
    image: tuple[str, ...] = ()
    """Files of pictures, in any format that Pillow reads."""
    labels: tuple[str, ...] = ()
    """What an image may show, for a model of images and texts."""
    template: tuple[str, ...] = PLAIN
    """Texts that are made of each label, with {} in its place, such as "a photo of a {}."; of several, the mean of
    their vectors stands for the label."""
    top: int = 5
    """Classes of each, at most."""
    batch_size: int = 32
    """Pictures that are looked at together."""
    attention: str | None = None
    """A file (.png) that gets a picture of where the model looks in the first image: through all layers (rollout), and
    by each head of the last layer. Needs matplotlib."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/classify.py")
    with command.flags_named(Command):
        checks.at_least(flags, 1, "top", "batch_size")
    if not flags.image:
        raise UserError("no --image is given: name files of pictures")
    from transformer.drawing import new_figure, save_figure

    figure = None if flags.attention is None else new_figure(10, 4, flags.attention, "--attention")
    command.start_jax()
    from transformer.inference.image_classifier import ImageClassifier
    from transformer.inference.restored import restore

    restored = restore(flags.run)
    if restored.architecture.kind == "two_towers":
        show(flags, zero_shot(flags, restored))
        return
    if flags.labels or flags.template != PLAIN:
        given, family = "--labels" if flags.labels else "--template", restored.architecture.family
        raise UserError(f"{given}: {restored.checkpoint} is a {family} model, which reads no texts: leave it out")
    classifier = ImageClassifier(restored)
    pictures = read_pictures(flags, classifier.preprocessing.channels)
    show(flags, classifier(pictures, top=flags.top, batch_size=flags.batch_size, progress=sys.stderr.isatty()))
    if figure is not None and flags.attention is not None:
        draw(classifier, pictures[0], figure)
        save_figure(figure, flags.attention)
        print(f"attention of {flags.image[0]}: {flags.attention}", file=sys.stderr)


def read_pictures(flags: Command, channels: int) -> "list[Image]":
    """Returns the pictures, all of them, so that a wrong one is named before any is looked at."""
    from transformer.data.images.decoding import decode
    from transformer.data.images.folders import read

    return [decode(read(path), str(path), channels) for path in map(expanded, flags.image)]


def zero_shot(flags: Command, restored: "Restored") -> "list[list[Guess]]":
    """Returns the likeliest labels of each picture, by a model of images and texts."""
    from transformer.inference.image_classifier import likeliest
    from transformer.inference.pictures import preprocessing_of
    from transformer.inference.zero_shot import TwoTowersReader

    what = f"{restored.checkpoint} is a {restored.architecture.family} model"
    if not flags.labels:
        raise UserError(f'{what}, which has no classes of its own: give --labels "a cat" "a dog"')
    if flags.attention is not None:
        raise UserError(f"--attention: {what}, of which it is not drawn: leave it out")
    reader = TwoTowersReader(restored, batch=flags.batch_size)
    preprocessing, _ = preprocessing_of(restored)
    images = [preprocessing(picture) for picture in read_pictures(flags, preprocessing.channels)]
    probabilities = reader.probabilities(images, flags.labels, flags.template)
    return [likeliest(row, flags.labels, flags.top) for row in probabilities]


def show(flags: Command, guesses: "list[list[Guess]]") -> None:
    """Prints what each image shows."""
    for file, found in zip(flags.image, guesses, strict=True):
        if len(flags.image) > 1:
            print(f"--- {file} ---")
        for guess in found:
            print(f"  {guess.probability:.4f}  {guess.label}")


def draw(classifier: "ImageClassifier", picture: Any, figure: Any) -> None:
    """Draws where a model looks in a picture: as it reads it, by rollout, and by each head of the last layer."""
    whole, heads = classifier.attention(picture)
    maps = {"all layers (rollout)": whole} | {f"last layer, head {n}": each for n, each in enumerate(heads[-1])}
    columns = min(len(maps) + 1, 6)
    rows = -(-(len(maps) + 1) // columns)
    figure.set_size_inches(2 * columns, 2.2 * rows)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    pixels = classifier.preprocessing.cut(picture)
    side, shown = pixels.shape[0], pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    for place in places:
        place.set_axis_off()
    for number, (place, name) in enumerate(zip(places, ["what the model reads", *maps], strict=False)):
        place.imshow(shown, cmap="gray")
        if number:
            place.imshow(maps[name], extent=(-0.5, side - 0.5, side - 0.5, -0.5), cmap="inferno", alpha=0.6)
        place.set_title(name, fontsize=8)


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
