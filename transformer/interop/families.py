"""All families with weights in Transformers' format, and the choice of the family of a folder or an architecture."""

import importlib
import importlib.util
from collections.abc import Collection, Mapping
from typing import Any

from transformer import models
from transformer.errors import UserError
from transformer.interop import engine, hf_config
from transformer.interop.family import Family, count_labels
from transformer.models.architecture import Architecture


def _listed() -> tuple[Family, ...]:
    """Returns the `FAMILIES` of `interop/NAME.py` for each name of `models.FAMILIES`; some have no such file."""
    names = [f"{__package__}.{name}" for name in models.FAMILIES if importlib.util.find_spec(f"{__package__}.{name}")]
    return tuple(family for name in names for family in importlib.import_module(name).FAMILIES)


FAMILIES = _listed()


def of_folder(config: Mapping[str, Any]) -> Family:
    """Returns the family of a config.json; raises UserError where its model type is not known."""
    for name, kind in {"architectures": list | None, "id2label": dict | None, "num_labels": int | None}.items():
        hf_config.checked(name, config.get(name), kind)
    for family in FAMILIES:
        if family.model_type == config.get("model_type"):
            return family
    known = ", ".join(dict.fromkeys(family.model_type for family in FAMILIES))
    raise UserError(f"config.json: model_type {config.get('model_type')!r} is not supported; known: {known}")


def of_architecture(architecture: Architecture, model_type: str | None = None) -> Family:
    """Returns the family of an architecture in Transformers; raises UserError where it has none.

    Several may compute the same numbers, as a Mistral without a window is a LLaMA: `model_type` is then preferred.
    """
    fitting = [family for family in FAMILIES if family.config is type(architecture) and family.fits(architecture)]
    if not fitting:
        raise UserError(
            f"Transformers has no model of this {architecture.family} architecture: it cannot be exported "
            "(it does not compute these numbers, or does not know the family)"
        )
    return next((family for family in fitting if family.model_type == model_type), fitting[0])


def choose_head(family: Family, config: Mapping[str, Any], names: Collection[str]) -> tuple[str, list[str]]:
    """Returns the head whose weights a checkpoint holds, and the names of tensors that belong to other heads only.

    Published files often hold more than the class they name: bert-base-uncased calls itself a masked language model and
    holds the next sentence head as well. The head that leaves the least over is taken, the declared one if equal.

    Args:
      family: the checkpoint's family.
      config: its config.json.
      names: the names of its tensors.

    Raises:
      UserError: weights of the declared head are missing, or there are tensors of no head.
    """
    declared = [head for head, cls in family.heads.items() if cls in (config.get("architectures") or ())]
    order = [*declared, *(head for head in family.heads if head not in declared)]
    missing: dict[str, list[str]] = {}
    left: dict[str, list[str]] = {}
    for head in order:
        architecture = family.read_config(config, head, count_labels(config))
        missing[head], left[head] = engine.misfits(family.table(architecture), names, architecture.abstract_params())
    unknown = set.intersection(*(set(names) for names in left.values()))
    if unknown:
        raise UserError(
            f"the weights do not fit a {family.model_type} model: unexpected {engine.some(sorted(unknown))}"
        )
    best = min(declared or order, key=lambda head: len(missing[head]))  # one class may be two heads: BertModel
    if missing[best]:
        raise UserError(f"the weights do not fit {family.heads[best]}: missing {engine.some(missing[best])}")
    head = min((head for head in order if not missing[head]), key=lambda head: len(left[head]))
    return head, left[head]
