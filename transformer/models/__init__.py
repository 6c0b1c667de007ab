"""Model families: a config and a module each, listed here by hand; architectures as JSON, both ways."""

import dataclasses
from typing import Any

import cattrs

from transformer import checks
from transformer.errors import UserError
from transformer.models.albert import AlbertConfig
from transformer.models.architecture import Architecture
from transformer.models.bart import BartConfig
from transformer.models.bert import BertConfig
from transformer.models.clip import ClipConfig
from transformer.models.deepseek import DeepseekConfig
from transformer.models.dinov2 import Dinov2Config
from transformer.models.distilbert import DistilBertConfig
from transformer.models.gpt import GPTConfig
from transformer.models.gpt1 import GPT1Config
from transformer.models.llama import LlamaConfig
from transformer.models.marian import MarianConfig
from transformer.models.olmoe import OlmoeConfig
from transformer.models.roberta import RobertaConfig
from transformer.models.siglip import SiglipConfig
from transformer.models.spanbert import SpanBertConfig
from transformer.models.t5 import T5Config
from transformer.models.transformer import TransformerConfig
from transformer.models.vit import ViTConfig
from transformer.models.whisper import WhisperConfig

FAMILIES: dict[str, type[Architecture]] = {
    config.family: config
    for config in (
        GPTConfig,
        GPT1Config,
        LlamaConfig,
        OlmoeConfig,
        DeepseekConfig,
        BertConfig,
        RobertaConfig,
        AlbertConfig,
        DistilBertConfig,
        SpanBertConfig,
        TransformerConfig,
        T5Config,
        BartConfig,
        MarianConfig,
        ViTConfig,
        Dinov2Config,
        ClipConfig,
        SiglipConfig,
        WhisperConfig,
    )
}
"""Family name, as in a checkpoint's architecture.json -> its config class."""


def architecture_to_dict(architecture: Architecture) -> dict[str, Any]:
    """Returns the architecture as plain JSON values, with its family's name first."""
    fields = dataclasses.asdict(architecture)
    # JSON has no tuples, and a record that was read is compared with one that was not.
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    return {"family": architecture.family, **plain}


def architecture_from_dict(record: Any) -> Architecture:
    """Returns the architecture that `architecture_to_dict` wrote.

    Raises:
      UserError: an unknown family, an unknown field, or a value of the wrong type or size.
    """
    if not isinstance(record, dict) or record.get("family") not in FAMILIES:
        family = record.get("family") if isinstance(record, dict) else record
        raise UserError(f"unknown model family {family!r}; known: {', '.join(FAMILIES)}")
    config = FAMILIES[record["family"]]
    fields = {name: value for name, value in record.items() if name != "family"}
    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(fields, config)
    except cattrs.ClassValidationError as error:
        raise UserError(f"not a {config.family} architecture: {checks.reasons(error)}") from error
