"""GPT (2018) in Transformers: `OpenAIGPTLMHeadModel`, with GPT-2's Conv1D kernels and fused q, k, v."""

from transformer.interop.engine import Table
from transformer.interop.family import Family
from transformer.interop.gpt2 import GPT_ALIASES, backbone_rules
from transformer.interop.hf_config import Field
from transformer.interop.rules import decoder_head
from transformer.models.gpt1 import GPT1Config

# In this model type alone, "gelu" is the tanh approximation.
_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}

_HEADS = {
    "language_model": "OpenAIGPTLMHeadModel",
    "sequence_classification": "OpenAIGPTForSequenceClassification",
    "none": "OpenAIGPTModel",
}

_FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("n_positions", "context_length"),
    Field("n_embd", "width"),
    Field("n_layer", "num_layers"),
    Field("n_head", "num_heads"),
    Field("afn", "activation", "gelu", _ACTIVATIONS),
    Field("resid_pdrop", "dropout", 0.1),
    Field("embd_pdrop", "dropout", 0.1),
    Field("attn_pdrop", "dropout", 0.1),
    Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
    Field("tie_word_embeddings", "tie_embeddings", True),
)


def _table(config: GPT1Config) -> Table:
    prefix = "" if config.head == "none" else "transformer."
    head, aliases = decoder_head(config.head, tied=config.tie_embeddings, words=f"{prefix}tokens_embed.weight")
    rules = (*backbone_rules(prefix, "tokens_embed", "positions_embed"), *head)
    # The causal mask, and the numbers of the positions.
    buffers = (r"(transformer\.)?h\.\d+\.attn\.bias", r"(transformer\.)?position_ids")
    return Table(rules, prefix=prefix, aliases=aliases, ignored=buffers)


OPENAI_GPT = Family(
    model_type="openai-gpt",
    config=GPT1Config,
    fields=_FIELDS,
    heads=_HEADS,
    table=_table,
    pinned={"n_special": 0},  # rows of the embedding beyond the vocabulary
    inert=GPT_ALIASES,
    harmless=(
        "n_ctx",
        "predict_special_tokens",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ),
    fits=lambda config: config.head in _HEADS and config.activation in _ACTIVATIONS.values(),
)
