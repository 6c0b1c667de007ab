"""DistilBERT in Transformers."""

from typing import Any

from transformer.interop.encoders import EMBEDDINGS, EncoderNames, MaskedLMNames
from transformer.interop.family import Family, classes
from transformer.interop.flax_names import ENCODER_HEADS, FlaxClasses
from transformer.interop.hf_config import ACTIVATIONS, Field, Same
from transformer.interop.rules import attention, dense, norm
from transformer.models.distilbert import DistilBertConfig

_NAMES = EncoderNames(
    prefix="distilbert.",
    embeddings={name: part for name, part in EMBEDDINGS.items() if "token_type" not in name},
    layer="transformer.layer.{layer}",
    block={
        **attention("attention", "attention", ("q_lin", "k_lin", "v_lin", "out_lin")),
        "sa_layer_norm": norm("attention_norm"),
        "ffn.lin1": dense("mlp/up"),
        "ffn.lin2": dense("mlp/down"),
        "output_layer_norm": norm("mlp_norm"),
    },
    masked_lm=MaskedLMNames("vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector"),
    pooler="pre_classifier",
)


def _untied(config: DistilBertConfig) -> str:
    return "has no unembedding of its own" if config.head == "masked_lm" and not config.tie_embeddings else ""


def _with_table(config: dict[str, Any]) -> dict[str, Any]:
    """Drops the field that says whether the table of positions started as sinusoids: the file holds it in any case.

    It is written as false, since otherwise the Flax class computes sinusoids and reads no table.
    """
    config.pop("sinusoidal_pos_embds", None)
    return config


DISTILBERT = Family(
    model_type="distilbert",
    config=DistilBertConfig,
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("max_position_embeddings", "context_length"),
        Field("dim", "width"),
        Field("n_layers", "num_layers"),
        Field("n_heads", "num_heads"),
        Field("hidden_dim", "mlp_width"),
        Field("activation", "activation", "gelu", ACTIVATIONS),
        Field("dropout", "dropout", 0.1),
        Field("attention_dropout", "attention_dropout", 0.1),
        Field("qa_dropout", "answer_dropout", 0.1),
        Field("seq_classif_dropout", "classifier_dropout", 0.2),
        Field("tie_word_embeddings", "tie_embeddings", True),
    ),
    heads=classes("DistilBert", DistilBertConfig.heads),
    table=_NAMES.table,
    harmless=("tie_weights_",),
    inert={
        "hidden_size": (Same("dim"),),
        "num_attention_heads": (Same("n_heads"),),
        "num_hidden_layers": (Same("n_layers"),),
    },
    spelled={"sinusoidal_pos_embds": bool},
    normalise=_with_table,
    denormalise=lambda config: {**config, "sinusoidal_pos_embds": False},
    fits=lambda config: config.norm_epsilon == 1e-12,  # not theirs to choose
    flax=FlaxClasses(heads=ENCODER_HEADS, refusal=_untied),
)

FAMILIES = (DISTILBERT,)
