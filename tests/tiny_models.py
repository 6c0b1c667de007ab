"""A tiny model of every family, with all that is the family's own turned on, in sizes that a small mesh divides."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np

from transformer.layers.experts_config import ExpertsConfig
from transformer.models.albert import AlbertConfig
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

_DECODER = {"vocab_size": 32, "context_length": 16, "width": 16, "num_layers": 2, "num_heads": 4}
_ENCODER = {**_DECODER, "mlp_width": 32, "dropout": 0.0, "attention_dropout": 0.0}
_POST_NORM = {
    "vocab_size": 32,
    "width": 16,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
    "num_encoder_heads": 4,
    "num_decoder_heads": 2,
    "encoder_mlp_width": 32,
    "decoder_mlp_width": 24,
    "dropout": 0.0,
    "decoder_start_id": 2,
}
_IMAGES = {
    "image_size": 8, "patch_size": 2, "channels": 3, "width": 16, "num_layers": 2, "num_heads": 4, "mlp_width": 32,
    "num_labels": 5,
}  # fmt: skip
_TOWERS = {
    **{name: size for name, size in _IMAGES.items() if name != "num_labels"}, "vocab_size": 32, "context_length": 16,
    "text_width": 8, "text_layers": 2, "text_heads": 2, "text_mlp_width": 16, "initial_scale": 1.0,
}  # fmt: skip
_EXPERTS = ExpertsConfig(num_experts=4, experts_per_token=2, mlp_width=8)
TINY = {
    "gpt": GPTConfig(**_DECODER, dropout=0.0, band=4),
    "gpt1": GPT1Config(**_DECODER, dropout=0.0),
    "llama": LlamaConfig(**_DECODER, num_kv_heads=2, head_width=8, mlp_width=24, window=5, head_norms=True),
    "olmoe": OlmoeConfig(**_DECODER, num_kv_heads=2, head_width=4, mlp_width=8, clip_qkv=1.0, experts=_EXPERTS),
    "deepseek": DeepseekConfig(
        **_DECODER, mlp_width=24, query_rank=8, latent_width=12, head_width=4, rotary_width=2, value_width=6,
        first_dense=1,
        experts=dataclasses.replace(
            _EXPERTS, scores="sigmoid", groups=2, groups_per_token=1, selection_bias=True, shared_experts=1, scale=1.5
        ),
    ),
    "bert": BertConfig(**_ENCODER, head="pretraining"),
    "roberta": RobertaConfig(**_ENCODER),
    "albert": AlbertConfig(**_ENCODER, embedding_width=8, head="pretraining"),
    "distilbert": DistilBertConfig(**_ENCODER),
    "spanbert": SpanBertConfig(**_ENCODER, boundary_width=8),
    "t5": T5Config(
        vocab_size=32, width=16, num_encoder_layers=1, num_decoder_layers=2, num_heads=4, head_width=6, mlp_width=24,
        gated=True, dropout=0.0, tie_embeddings=False,
    ),
    "bart": BartConfig(**_POST_NORM, context_length=16, attention_dropout=0.0, mlp_dropout=0.0),
    "marian": MarianConfig(**_POST_NORM, context_length=16),
    "transformer": TransformerConfig(**_POST_NORM),
    "vit": ViTConfig(**_IMAGES, norm_epsilon=1e-6, class_token=False, pooling="attention", registers=0),
    "whisper": WhisperConfig(
        vocab_size=32, width=16, num_encoder_layers=2, num_decoder_layers=1, num_encoder_heads=4, num_decoder_heads=2,
        encoder_mlp_width=32, decoder_mlp_width=24, decoder_start_id=2, bins=6, encoder_places=8, context_length=16,
    ),
    "dinov2": Dinov2Config(**_IMAGES, registers=3, layer_scale=0.5),
    "clip": ClipConfig(**_TOWERS, projection_width=8, end_id=31),
    "siglip": SiglipConfig(**_TOWERS),
}  # fmt: skip


def random_params(config):
    """Random parameters, larger than at initialisation, biases too: so that nothing hides behind a zero."""
    shapes = nn.meta.unbox(config.abstract_params())
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32), shapes)
    return _telling_apart(params) if config.kind == "two_towers" else params


def _telling_apart(params):
    """The parameters of two towers with norms that pass on what they read, and scores that differ.

    Else the vectors of all images are within 3 % of each other. Softmax's gradient by a vector is a sum of others whose
    factors add up to 0, and of others that are all alike it is a small difference of large numbers: eight devices were
    1.9e-5 off PyTorch's float64, and one device 5e-6, where both are within 4e-6 now.
    """
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf + np.float32(path[-1].key == "scale"), params)
    return params | {"similarity": params["similarity"] | {"scale": np.float32(2.0)}}
