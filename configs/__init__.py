"""Presets: functions that return an Experiment, a file a family. A variant is a function too."""

import difflib
from collections.abc import Sequence
from typing import Any

from configs import (
    albert,
    bart,
    bert,
    chat,
    clip,
    deepseek,
    distilbert,
    gpt,
    gpt1,
    llama,
    marian,
    mixtral,
    moe,
    olmoe,
    roberta,
    siglip,
    spanbert,
    t5,
    tasks,
    transformer,
    vit,
    whisper,
)
from configs.recipe import Preset
from transformer.errors import UserError
from transformer.training.experiment import Experiment

_DECODERS = (gpt, gpt1, llama, moe, mixtral, olmoe, deepseek)
_ENCODERS = (bert, roberta, albert, distilbert, spanbert, vit, clip, siglip)
_FAMILIES = (*_DECODERS, *_ENCODERS, transformer, t5, bart, marian, whisper, tasks, chat)
PRESETS: dict[str, Preset] = {
    preset.name: preset for family in _FAMILIES for preset in vars(family).values() if isinstance(preset, Preset)
}
DEFAULT = "gpt-python"


def get(name: str, **variant: Any) -> Experiment:
    """Returns the preset `name`; an unknown name raises UserError with the nearest ones.

    Args:
      name: as `PRESETS` has it.
      variant: what its function takes, such as `pretrained` of a task's.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "python train.py --list names them"
        raise UserError(f"unknown preset {name!r}: {hint}")
    return PRESETS[name](**variant)


def split(args: Sequence[str]) -> tuple[str | None, list[str]]:
    """Returns the preset that a command line begins with, None where it names none, and the flags after it."""
    if args and not args[0].startswith("-"):
        return args[0], list(args[1:])
    return None, list(args)


def summaries() -> dict[str, str]:
    """Returns preset -> what it is, in a line."""
    return {name: preset.summary for name, preset in PRESETS.items()}
