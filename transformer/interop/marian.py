"""Marian in Transformers: `MarianMTModel`, the translation models of OPUS-MT."""

import functools
from typing import Any

import numpy as np

from transformer.interop.bart import FIELDS, HARMLESS, INERT, PINNED, common_rules
from transformer.interop.engine import Rule, Table
from transformer.interop.family import Family
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import Field
from transformer.interop.transforms import Transform
from transformer.models.marian import MarianConfig, sinusoid_table

_ROW = Transform(
    their_shape=lambda shapes: (1, *shapes[0]),
    load=lambda array, shapes: [array[0]],
    save=lambda arrays: arrays[0][None],
)
"""Between a bias of theirs, [1, V], and ours, [V]."""


def _normalise(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("decoder_vocab_size") is None:
        config["decoder_vocab_size"] = config.get("vocab_size")
    return config


def _denormalise(config: dict[str, Any]) -> dict[str, Any]:
    # Transformers' default is OPUS-MT's, which a smaller vocabulary does not have: its model would not be built.
    return {**config, "pad_token_id": config["decoder_start_token_id"]}


def _table(config: MarianConfig) -> Table:
    prefix = "" if config.head == "none" else "model."
    rules, aliases = common_rules(prefix, config.head)
    defaults = {}
    if config.head == "language_model":
        rules = (*rules, Rule("final_logits_bias", ("head/bias",), _ROW))
        # A buffer: dict(model.named_parameters()) lacks it.
        defaults["final_logits_bias"] = functools.partial(np.zeros, (1, config.vocab_size), np.float32)
    sinusoids = functools.partial(sinusoid_table, config.context_length, config.width)
    constants = {f"{prefix}{side}.embed_positions.weight": sinusoids for side in ("encoder", "decoder")}
    return Table(rules, prefix=prefix, aliases=aliases, constants=constants, defaults=defaults)


MARIAN = Family(
    model_type="marian",
    config=MarianConfig,
    fields=(*FIELDS, Field("decoder_vocab_size", "vocab_size")),
    heads={"language_model": "MarianMTModel", "none": "MarianModel"},
    table=_table,
    pinned={**PINNED, "share_encoder_decoder_embeddings": True},
    harmless=(*HARMLESS, "classifier_dropout"),
    inert={**INERT, "normalize_embedding": (False,), "static_position_embeddings": (True,)},
    normalise=_normalise,
    denormalise=_denormalise,
    fits=lambda config: config.norm_epsilon == 1e-5,
    flax=FlaxClasses(heads=("language_model", "none")),
)

FAMILIES = (MARIAN,)
