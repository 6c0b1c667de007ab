"""BART in Transformers, and what Marian's models there have in common with it."""

import functools

import numpy as np

from transformer.interop.engine import Rule, Table
from transformer.interop.family import Family
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import ACTIVATIONS, Field, Same
from transformer.interop.transforms import FLAT, kernel
from transformer.models.bart import BartConfig

_MATRIX = kernel(transposed=True)

FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("d_model", "width"),
    Field("encoder_layers", "num_encoder_layers"),
    Field("decoder_layers", "num_decoder_layers"),
    Field("encoder_attention_heads", "num_encoder_heads"),
    Field("decoder_attention_heads", "num_decoder_heads"),
    Field("encoder_ffn_dim", "encoder_mlp_width"),
    Field("decoder_ffn_dim", "decoder_mlp_width"),
    Field("max_position_embeddings", "context_length"),
    Field("decoder_start_token_id", "decoder_start_id"),
    Field("activation_function", "activation", "gelu", ACTIVATIONS),
    Field("dropout", "dropout", 0.1),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("activation_dropout", "mlp_dropout", 0.0),
    Field("scale_embedding", "scale_embeddings", False),
)

PINNED = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "tie_word_embeddings": True}

HARMLESS = ("init_std", "classif_dropout", "extra_pos_embeddings")

INERT = {
    # Of Transformers' first versions, when one class was BART, mBART, Marian and Blenderbot; gone since.
    "add_bias_logits": (False,),
    "add_final_layer_norm": (False,),
    "normalize_before": (False,),
    "do_blenderbot_90_layernorm": (False,),
    # Transformers' other names of the sizes.
    "hidden_size": (Same("d_model"),),
    "num_attention_heads": (Same("encoder_attention_heads"),),
    "num_hidden_layers": (Same("encoder_layers"),),
}
"""Fields that Marian's have too -> the values with which they change nothing."""


def layer_rules(prefix: str, side: str) -> tuple[Rule, ...]:
    """Returns the rules of the blocks of a side, "encoder" or "decoder"."""
    ours, theirs = f"backbone/{side}/stack/layers", f"{prefix}{side}.layers.{{layer}}"
    attentions = {"self_attn": "attention"} | ({"encoder_attn": "cross_attention"} if side == "decoder" else {})
    norms = {f"{name}_layer_norm": f"{attention}_norm" for name, attention in attentions.items()}
    rules = []
    for name, attention in attentions.items():
        for projection in ("query", "key", "value"):
            path, weight = f"{ours}/{attention}/{projection}", f"{theirs}.{name}.{projection[0]}_proj"
            rules += [Rule(f"{weight}.weight", (f"{path}/kernel",), _MATRIX)]
            rules += [Rule(f"{weight}.bias", (f"{path}/bias",), FLAT)]
        out = kernel(2, transposed=True)
        rules += [Rule(f"{theirs}.{name}.out_proj.weight", (f"{ours}/{attention}/out/kernel",), out)]
        rules += [Rule(f"{theirs}.{name}.out_proj.bias", (f"{ours}/{attention}/out/bias",))]
    for name, matrix in {"fc1": "mlp/up", "fc2": "mlp/down"}.items():
        rules += dense_rules(f"{theirs}.{name}", f"{ours}/{matrix}")
    for name, norm in {**norms, "final_layer_norm": "mlp_norm"}.items():
        rules += norm_rules(f"{theirs}.{name}", f"{ours}/{norm}")
    return tuple(rules)


def dense_rules(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """Returns the rules of a PyTorch Linear with a bias."""
    return Rule(f"{theirs}.weight", (f"{ours}/kernel",), _MATRIX), Rule(f"{theirs}.bias", (f"{ours}/bias",))


def norm_rules(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """Returns the rules of a PyTorch LayerNorm."""
    return Rule(f"{theirs}.weight", (f"{ours}/scale",)), Rule(f"{theirs}.bias", (f"{ours}/bias",))


def word_rules(prefix: str, head: str) -> tuple[Rule, dict[str, str]]:
    """Returns the rule of the one table of words, and its other names."""
    words = f"{prefix}shared.weight"
    aliases = {f"{prefix}{side}.embed_tokens.weight": words for side in ("encoder", "decoder")}
    if head == "language_model":
        aliases["lm_head.weight"] = words
    return Rule(words, ("backbone/token_embedding/embedding",)), aliases


def _table(config: BartConfig) -> Table:
    prefix = "" if config.head == "none" else "model."
    words, aliases = word_rules(prefix, config.head)
    rules = [words]
    for side in ("encoder", "decoder"):
        embed = f"backbone/{side}/embed"
        rules += [Rule(f"{prefix}{side}.embed_positions.weight", (f"{embed}/position_embedding/embedding",))]
        rules += norm_rules(f"{prefix}{side}.layernorm_embedding", f"{embed}/norm")
        rules += layer_rules(prefix, side)
    constants = {}
    if config.head == "language_model":
        # A buffer, for Marian's sake: no BART has anything in it.
        constants["final_logits_bias"] = functools.partial(np.zeros, (1, config.vocab_size), np.float32)
    if config.head == "sequence_classification":
        rules += dense_rules("classification_head.dense", "head/dense")
        rules += dense_rules("classification_head.out_proj", "head/out")
    if config.head == "question_answering":
        rules += dense_rules("qa_outputs", "head/out")
    versions = (r"(model\.)?(encoder|decoder)\.version",)
    return Table(tuple(rules), prefix=prefix, aliases=aliases, constants=constants, ignored=versions)


BART = Family(
    model_type="bart",
    config=BartConfig,
    fields=(*FIELDS, Field("classifier_dropout", "classifier_dropout", 0.0)),
    heads={
        "language_model": "BartForConditionalGeneration",
        "sequence_classification": "BartForSequenceClassification",
        "question_answering": "BartForQuestionAnswering",
        "none": "BartModel",
    },
    table=_table,
    pinned=PINNED,
    harmless=HARMLESS,
    inert={**INERT, "normalize_embedding": (True,), "static_position_embeddings": (False,)},
    # Transformers' LayerNorms have PyTorch's epsilon, whatever config.json says.
    fits=lambda config: config.norm_epsilon == 1e-5,
    flax=FlaxClasses(
        heads=("language_model", "sequence_classification", "question_answering", "none"),
        constants=("final_logits_bias",),
    ),
)
