"""GPT (2018) in Transformers: `OpenAIGPTLMHeadModel`, with GPT-2's Conv1D kernels and fused q, k, v."""

from transformer.interop.engine import Table
from transformer.interop.family import Family
from transformer.interop.gpt import GPT_ALIASES, GPT_FIELDS, GPT_HARMLESS, backbone_rules
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
    fields=(*GPT_FIELDS, Field("afn", "activation", "gelu", _ACTIVATIONS)),
    heads=_HEADS,
    table=_table,
    pinned={"n_special": 0},  # rows of the embedding beyond the vocabulary
    inert=GPT_ALIASES,
    harmless=(*GPT_HARMLESS, "predict_special_tokens"),
    fits=lambda config: config.head in _HEADS and config.activation in _ACTIVATIONS.values(),
)

FAMILIES = (OPENAI_GPT,)
