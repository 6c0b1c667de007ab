"""Tell what images show, by a run: python tools/classify.py RUN --image FILE [--attention OUT.png]."""

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import tyro

from transformer import checks, command
from transformer.errors import UserError
from transformer.paths import expanded

if TYPE_CHECKING:
    from transformer.inference.image_classifier import ImageClassifier


@dataclasses.dataclass(frozen=True)
class Command:
    """Tell the classes of images with the newest checkpoint of a run, or an imported model."""

    run: tyro.conf.Positional[str]
    """A run folder, or one of its checkpoints (RUN/checkpoints/STEP)."""
    image: tuple[str, ...] = ()
    """Files of pictures, in any format that Pillow reads."""
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
    from transformer.data.images.decoding import decode
    from transformer.data.images.folders import read
    from transformer.inference.image_classifier import ImageClassifier
    from transformer.inference.restored import restore

    classifier = ImageClassifier(restore(flags.run))
    channels = classifier.preprocessing.channels
    paths = [expanded(file) for file in flags.image]
    pictures = [decode(read(path), str(path), channels) for path in paths]  # a wrong one is named before any is seen
    guesses = classifier(pictures, top=flags.top, batch_size=flags.batch_size, progress=sys.stderr.isatty())
    for file, found in zip(flags.image, guesses, strict=True):
        if len(flags.image) > 1:
            print(f"--- {file} ---")
        for guess in found:
            print(f"  {guess.probability:.4f}  {guess.label}")
    if figure is not None and flags.attention is not None:
        draw(classifier, pictures[0], figure)
        save_figure(figure, flags.attention)
        print(f"attention of {flags.image[0]}: {flags.attention}", file=sys.stderr)


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
