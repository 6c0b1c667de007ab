"""All families with weights in Transformers' format, and the choice of the family of a folder or an architecture."""

from collections.abc import Collection, Mapping
from typing import Any

from transformer.errors import UserError
from transformer.interop import engine, hf_config
from transformer.interop.albert import ALBERT
from transformer.interop.bart import BART
from transformer.interop.bert import BERT
from transformer.interop.distilbert import DISTILBERT
from transformer.interop.family import Family, count_labels
from transformer.interop.gpt2 import GPT2
from transformer.interop.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from transformer.interop.marian import MARIAN
from transformer.interop.openai_gpt import OPENAI_GPT
from transformer.interop.roberta import ROBERTA
from transformer.interop.spanbert import SPANBERT
from transformer.interop.t5 import MT5, T5
from transformer.models.architecture import Architecture

FAMILIES: tuple[Family, ...] = (
    GPT2,
    OPENAI_GPT,
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    BERT,
    SPANBERT,
    ROBERTA,
    ALBERT,
    DISTILBERT,
    T5,
    MT5,
    BART,
    MARIAN,
)


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
