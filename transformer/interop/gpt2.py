"""GPT-2 in Transformers: `GPT2LMHeadModel`, whose Conv1D kernels are [inputs, outputs] and whose q, k, v are fused."""

from transformer.errors import UserError
from transformer.interop.decoder_heads import head_rules
from transformer.interop.engine import Rule, Table
from transformer.interop.family import Family
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import ACTIVATIONS, Field, Same
from transformer.interop.transforms import FLAT, fused, kernel
from transformer.models.gpt import GPTConfig

_LAYER = "backbone/stack/layers"
_MATRIX = kernel(transposed=False)
_QKV = tuple(f"{_LAYER}/attention/{name}" for name in ("query", "key", "value"))

GPT_ALIASES = {
    "hidden_size": (Same("n_embd"),),
    "max_position_embeddings": (Same("n_positions"),),
    "num_attention_heads": (Same("n_head"),),
    "num_hidden_layers": (Same("n_layer"),),
}
"""Transformers' other names of the sizes, which it takes where config.json has them."""

_FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("n_positions", "context_length"),
    Field("n_embd", "width"),
    Field("n_layer", "num_layers"),
    Field("n_head", "num_heads"),
    Field("n_inner", "mlp_width", None),
    Field("activation_function", "activation", "gelu_new", ACTIVATIONS),
    Field("resid_pdrop", "dropout", 0.1),
    Field("embd_pdrop", "dropout", 0.1),
    Field("attn_pdrop", "dropout", 0.1),
    Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
    Field("scale_attn_weights", "scale_scores", True),
    Field("scale_attn_by_inverse_layer_idx", "divide_scores_by_layer", False),
    Field("tie_word_embeddings", "tie_embeddings", True),
)


def embedding_rules(words: str, positions: str) -> tuple[Rule, ...]:
    """Returns the rules of the tables of words and positions, under the given names."""
    return (
        Rule(words, ("backbone/token_embedding/embedding",)),
        Rule(positions, ("backbone/position_embedding/embedding",)),
    )


def block_rules(prefix: str) -> tuple[Rule, ...]:
    """Returns the rules of the blocks. GPT and GPT-2 name them alike: ln_1 is attention's norm, after it or before."""
    layer = f"{prefix}h.{{layer}}"
    return (
        Rule(f"{layer}.ln_1.weight", (f"{_LAYER}/attention_norm/scale",)),
        Rule(f"{layer}.ln_1.bias", (f"{_LAYER}/attention_norm/bias",)),
        Rule(f"{layer}.attn.c_attn.weight", tuple(f"{path}/kernel" for path in _QKV), fused(_MATRIX)),
        Rule(f"{layer}.attn.c_attn.bias", tuple(f"{path}/bias" for path in _QKV), fused(FLAT)),
        Rule(f"{layer}.attn.c_proj.weight", (f"{_LAYER}/attention/out/kernel",), kernel(2, transposed=False)),
        Rule(f"{layer}.attn.c_proj.bias", (f"{_LAYER}/attention/out/bias",)),
        Rule(f"{layer}.ln_2.weight", (f"{_LAYER}/mlp_norm/scale",)),
        Rule(f"{layer}.ln_2.bias", (f"{_LAYER}/mlp_norm/bias",)),
        Rule(f"{layer}.mlp.c_fc.weight", (f"{_LAYER}/mlp/up/kernel",), _MATRIX),
        Rule(f"{layer}.mlp.c_fc.bias", (f"{_LAYER}/mlp/up/bias",)),
        Rule(f"{layer}.mlp.c_proj.weight", (f"{_LAYER}/mlp/down/kernel",), _MATRIX),
        Rule(f"{layer}.mlp.c_proj.bias", (f"{_LAYER}/mlp/down/bias",)),
    )


def _table(config: GPTConfig) -> Table:
    if config.band is not None:
        raise UserError(f"band is {config.band}: Transformers' GPT-2 has no banded attention")
    prefix = "" if config.head == "none" else "transformer."
    words = f"{prefix}wte.weight"
    head, aliases = head_rules(config.head, tied=config.tie_embeddings, embedding=words, token_classifier="classifier")
    rules = (
        *embedding_rules(words, f"{prefix}wpe.weight"),
        *block_rules(prefix),
        Rule(f"{prefix}ln_f.weight", ("backbone/final_norm/scale",)),
        Rule(f"{prefix}ln_f.bias", ("backbone/final_norm/bias",)),
        *head,
    )
    # Old checkpoints hold the causal mask as a buffer.
    buffers = (r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",)
    return Table(rules, prefix=prefix, aliases=aliases, ignored=buffers)


def _not_in_flax(config: GPTConfig) -> str:
    if config.divide_scores_by_layer or not config.scale_scores:
        return "divides all scores by the square root of the head width alone"
    return ""


GPT2 = Family(
    model_type="gpt2",
    config=GPTConfig,
    fields=_FIELDS,
    heads={
        "language_model": "GPT2LMHeadModel",
        "sequence_classification": "GPT2ForSequenceClassification",
        "token_classification": "GPT2ForTokenClassification",
        "question_answering": "GPT2ForQuestionAnswering",
        "none": "GPT2Model",
    },
    table=_table,
    pinned={"add_cross_attention": False},
    inert=GPT_ALIASES,
    harmless=(
        "n_ctx",
        # Whether half-precision scores are computed in float32, with the keys scaled first. Here scores always are
        # float32, in every dtype: the equation is the same.
        "reorder_and_upcast_attn",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ),
    fits=lambda config: config.band is None,
    flax=FlaxClasses(heads=("language_model", "none"), refusal=_not_in_flax),
)
