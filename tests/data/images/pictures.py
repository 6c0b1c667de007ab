"""Small pictures and folders of them, for the room's tests."""

import io

import numpy as np
from PIL import Image


def picture(seed=0, size=(9, 7), mode="RGB"):
    """Returns a picture of noise; `size` is (width, height)."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "LA": (2,)}[mode]
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels)).astype(np.uint8)
    return Image.fromarray(array, mode if mode == "CMYK" else None)


def encoded(image, kind="PNG", **options):
    """Returns the bytes of a picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def class_folders(root, counts, *, seed=0):
    """Writes a folder a class with so many pictures, and returns it."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            image = picture(1000 * seed + 100 * number + index)
            (root / name / f"{index}.png").write_bytes(encoded(image))
    return root
