"""preprocessor_config.json, both ways: how Hugging Face's image processors cut pictures to size."""

import json
from collections.abc import Mapping
from typing import Any

from transformer.data.images.preprocessing import Preprocessing
from transformer.errors import UserError

FILE = "preprocessor_config.json"
_WHOLE = "processor_config.json"
"""Where Transformers 5 keeps the same beside a tokenizer's, of models of images and texts; it comes first there."""

_RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers -> our names."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"resample": 2, "do_center_crop": False, "mean": 0.5, "std": 0.5},
    "DeiT": {"resample": 3, "do_center_crop": True, "mean": 0.5, "std": 0.5},
    "Bit": {"resample": 3, "do_center_crop": True, "mean": None, "std": None},
    "CLIP": {"resample": 3, "do_center_crop": True, "mean": None, "std": None},
    "Siglip": {"resample": 3, "do_center_crop": False, "mean": 0.5, "std": 0.5},
}
"""Beginning of a processor's name -> what it does where the file says nothing; None: the file must say it."""
_HARMLESS = (
    "image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb", "data_format",
    "input_data_format", "return_tensors", "device", "size_divisor", "disable_grouping", "backend",
)  # fmt: skip
_READ = (
    "size", "crop_size", "resample", "do_resize", "do_center_crop", "do_rescale", "do_normalize", "rescale_factor",
    "image_mean", "image_std",
)  # fmt: skip
_KINDS = {"vit": "ViTImageProcessor", "dinov2": "BitImageProcessor", "clip": "CLIPImageProcessor",
          "siglip": "SiglipImageProcessor"}  # fmt: skip
"""Family -> the processor that its models come with."""


def read(files: Mapping[str, bytes], channels: int) -> Preprocessing | None:
    """Returns how a folder's processor makes arrays of pictures; None: the folder has none.

    Args:
      files: the folder's, by name.
      channels: the model's.

    Raises:
      UserError: a field that would change the numbers and is not supported, by name.
    """
    config = _object(files, _WHOLE).get("image_processor") or _object(files, FILE)
    if not config:
        return None
    name = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    known = next((values for begin, values in _DEFAULTS.items() if name.startswith(begin)), None)
    if known is None:
        raise UserError(f"{FILE}: image_processor_type {name!r} is not supported; known: {', '.join(_DEFAULTS)}")
    for field in config.keys() - {*_READ, *_HARMLESS}:
        if not field.startswith("_") and config[field] is not None:
            raise UserError(f"{FILE}: {field} = {config[field]!r} is not supported")
    for field in ("do_resize", "do_rescale", "do_normalize"):
        if config.get(field, True) is not True:
            raise UserError(f"{FILE}: {field} = {config[field]!r} is not supported: only true")
    if abs(config.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-8:
        raise UserError(f"{FILE}: rescale_factor = {config['rescale_factor']!r} is not supported: only 1 / 255")
    resample = config.get("resample", known["resample"])
    if resample not in _RESAMPLES:
        raise UserError(f"{FILE}: resample = {resample!r} is not supported: {', '.join(map(str, _RESAMPLES))}")
    size, crops = config.get("size", 224), config.get("do_center_crop", known["do_center_crop"])
    mean, std = (_numbers(config, f"image_{which}", known[which]) for which in ("mean", "std"))
    shared = {"resample": _RESAMPLES[resample], "mean": mean, "std": std}
    if not crops:
        return Preprocessing(_side(size, "size"), channels, "squash", **shared)
    cut = _side(config.get("crop_size", 224), "crop_size")
    if name.startswith("DeiT"):  # both sides are resized, then the middle is cut out
        edge = _side(config.get("size", 256), "size")
        return Preprocessing(cut, channels, "squash", None if edge == cut else edge, **shared)
    edge = size.get("shortest_edge", None) if isinstance(size, dict) else size
    if not isinstance(edge, int):
        raise UserError(f"{FILE}: size = {size!r} before a centre crop is not supported: only shortest_edge")
    return Preprocessing(cut, channels, "crop", None if edge == cut else edge, **shared)


def write(preprocessing: Preprocessing, family: str) -> bytes:
    """Returns the preprocessor_config.json of how pictures are cut, for a family's processor."""
    shrinks = preprocessing.resize == "crop"
    crops = shrinks or preprocessing.edge not in (None, preprocessing.size)
    kind = "CLIPImageProcessor" if shrinks and family in ("vit", "siglip") else _KINDS[family]
    if crops and not shrinks:
        kind = "DeiTImageProcessor"
    side, edge = {"height": preprocessing.size, "width": preprocessing.size}, preprocessing.edge or preprocessing.size
    config = {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"shortest_edge": edge} if shrinks else {"height": edge, "width": edge},
        "do_center_crop": crops,
        **({"crop_size": side} if crops else {}),
        "resample": next(number for number, name in _RESAMPLES.items() if name == preprocessing.resample),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _each(preprocessing.mean, preprocessing.channels),
        "image_std": _each(preprocessing.std, preprocessing.channels),
    }
    return (json.dumps(config, indent=2) + "\n").encode()


def _object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Returns the JSON object of a file, empty where there is no such file."""
    try:
        content = json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise UserError(f"{name}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{name}: not a JSON object")
    return content


def _side(size: Any, field: str) -> int:
    """Returns the side of a square."""
    if isinstance(size, dict) and size.get("height") == size.get("width") and isinstance(size.get("height"), int):
        return size["height"]
    if isinstance(size, int):
        return size
    raise UserError(f"{FILE}: {field} = {size!r} is no square")


def _numbers(config: Mapping[str, Any], field: str, default: float | None) -> tuple[float, ...]:
    values = config.get(field, [default] if default is not None else None)
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        raise UserError(f"{FILE}: {field} = {values!r} is no list of numbers")
    return tuple(map(float, values))


def _each(values: tuple[float, ...], channels: int) -> list[float]:
    return [*values] * channels if len(values) == 1 else [*values]
