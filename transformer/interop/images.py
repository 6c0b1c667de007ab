"""Parts that the tables of image encoders share: the fields of config.json, patches, learned tokens."""

from transformer.interop.engine import Rule
from transformer.interop.hf_config import ACTIVATIONS, Field
from transformer.interop.rules import Part, dense
from transformer.interop.transforms import FIRST_OF_ONE, patches


def image_fields(epsilon: float) -> tuple[Field, ...]:
    """Returns the fields of ViT and DINOv2; the argument is Transformers' default."""
    return (
        Field("image_size", "image_size", 224),
        Field("num_channels", "channels", 3),
        Field("hidden_size", "width", 768),
        Field("num_hidden_layers", "num_layers", 12),
        Field("num_attention_heads", "num_heads", 12),
        Field("hidden_act", "activation", "gelu", ACTIVATIONS),
        Field("hidden_dropout_prob", "dropout", 0.0),
        Field("attention_probs_dropout_prob", "attention_dropout", 0.0),
        Field("layer_norm_eps", "norm_epsilon", epsilon),
        Field("qkv_bias", "attention_bias", True),
    )


def patch_projection(path: str, patch_size: int, *, bias: bool = True) -> Part:
    """Returns the part of the convolution that makes vectors of patches."""
    weight = Rule("weight", (f"{path}/projection/kernel",), patches(patch_size))
    return (weight, Rule("bias", (f"{path}/projection/bias",))) if bias else (weight,)


def learned_tokens(theirs: str, ours: str) -> Rule:
    """Returns the rule of learned tokens, [1, tokens, D] in their file."""
    return Rule(theirs, (f"{ours}/table/embedding",), FIRST_OF_ONE)


WORDLESS = ("tie_word_embeddings",)
"""Fields that change nothing where no head has a table of words."""

CLASSIFIER: dict[str, Part] = {"classifier": dense("head/out")}
