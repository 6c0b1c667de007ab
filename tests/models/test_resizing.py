"""Resizing: published models come out of each other, and every shape can be built and laid out on a mesh."""

import dataclasses

import hypothesis.strategies as st
import jax
import pytest
from hypothesis import assume, given, settings

import configs
from tests.tiny_models import TINY
from transformer.errors import UserError
from transformer.models import FAMILIES
from transformer.models.architecture import Architecture
from transformer.models.clip import ClipConfig
from transformer.models.conventions import num_params
from transformer.models.deepseek import DeepseekConfig
from transformer.models.dinov2 import Dinov2Config
from transformer.models.distilbert import DistilBertConfig
from transformer.models.gpt1 import GPT1Config
from transformer.models.llama import LlamaConfig
from transformer.models.marian import MarianConfig
from transformer.models.olmoe import OlmoeConfig
from transformer.models.resizing import Shaping, scaled, shallowest
from transformer.models.roberta import RobertaConfig
from transformer.models.siglip import SiglipConfig
from transformer.models.spanbert import SpanBertConfig
from transformer.models.transformer import TransformerConfig
from transformer.models.whisper import WhisperConfig
from transformer.parallel.rules import resolve
from transformer.params import param_names

GPT = configs.get("gpt-scaling").model
BASES: dict[str, Architecture] = {
    "gpt": GPT,
    "gpt-banded": configs.get("gpt3-small").model,
    "bert": configs.get("bert-scaling").model,
    "llama": configs.get("llama3-8b").model,
    "t5": configs.get("t5-11b").model,
    "albert": configs.get("albert-base").model,
    "bart": configs.get("bart-base").model,
    "marian": MarianConfig(num_decoder_layers=2),
    "gpt1": GPT1Config(),
    "olmoe": OlmoeConfig(),
    "deepseek": DeepseekConfig(first_dense=0),  # of one layer at least
    "roberta": RobertaConfig(),
    "distilbert": DistilBertConfig(),
    "spanbert": SpanBertConfig(),
    "transformer": TransformerConfig(),
    "vit": configs.get("vit-b16").model,
    "dinov2": Dinov2Config(),
    "clip": ClipConfig(),
    "siglip": SiglipConfig(),
    "whisper": WhisperConfig(num_decoder_layers=2),
}


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("gpt2-small", "gpt2-medium"),
        ("gpt3-6-7b", "gpt3-13b"),
        ("gpt3-6-7b", "gpt3-175b"),
        ("bert-base", "bert-large"),
        ("t5-small", "t5-base"),
        ("t5-base", "t5-large"),
        ("llama-7b", "llama-65b"),
    ],
)
def test_published_models_come_out_of_each_other(small, large):
    base, want = configs.get(small).model, configs.get(large).model
    shaping = Shaping(multiple=256 if "llama" in small else None)
    assert scaled(base, want.width, want.depth, shaping=shaping) == want


@pytest.mark.parametrize("name", BASES)
def test_a_model_of_these_proportions_is_its_own_shape(name):
    base = BASES[name]
    rounded = scaled(base, base.width, shaping=Shaping())
    assert (rounded.width, rounded.depth) == (base.width, base.depth)
    assert num_params(rounded) == pytest.approx(num_params(base), rel=2e-3)
    assert scaled(base, base.width) == base


def test_every_family_has_shapes():
    assert {base.family for base in BASES.values()} == set(FAMILIES)


@pytest.mark.exhaustive
@settings(max_examples=20)
@given(st.sampled_from(sorted(BASES)), st.integers(1, 40), st.none() | st.integers(1, 9), st.sampled_from([1, 2, 4]))
def test_shapes_can_be_laid_out_on_a_mesh(name, steps, depth, tensor):
    """Every parameter is split by the mesh's axes without a rest; words are what the preset has, padded to 4."""
    words = {} if BASES[name].vocab_size is None else {"vocab_size": 512}
    token = {"marian": "decoder_start_id", "whisper": "decoder_start_id", "clip": "end_id"}
    base = dataclasses.replace(BASES[name], **words, **({token[name]: 0} if name in token else {}))
    try:
        architecture = scaled(base, 16 * steps, depth, shaping=Shaping(tensor=tensor))
    except UserError as error:
        assume("take" not in str(error))  # no such width: another is named
        raise
    assert architecture.width == 16 * steps
    layers = architecture.depth
    assert depth is None or layers == depth or (layers == depth + 1 and name == "gpt-banded")
    boxed = architecture.abstract_params()
    is_names = lambda node: isinstance(node, tuple)  # noqa: E731
    for leaf, names in zip(jax.tree.leaves(boxed), jax.tree.leaves(param_names(boxed), is_leaf=is_names), strict=True):
        resolve(names, leaf.shape, {"fsdp": 2, "tensor": tensor}, what=name)


def test_feed_forward_widths_are_rounded():
    narrow, split = (scaled(BASES["llama"], 144, shaping=Shaping(tensor=tensor)) for tensor in (1, 3))
    assert isinstance(narrow, LlamaConfig)
    assert isinstance(split, LlamaConfig)
    assert (narrow.mlp_width, split.mlp_width) == (512, 480)  # of 3.5 * 144 = 504; multiples of 16, and of 48


@given(st.sampled_from(sorted(TINY)), st.integers(1, 6))
def test_a_model_in_exact_proportion_scales_back(name, times):
    base = TINY[name]
    wide = scaled(base, times * base.width, times * base.depth)
    assert (wide.width, wide.depth) == (times * base.width, times * base.depth)
    assert scaled(wide, base.width, base.depth) == base


def test_heads_and_both_sides_follow():
    llama = scaled(TINY["llama"], 64, 4, head_width=16)
    assert isinstance(llama, LlamaConfig)
    assert (llama.width, llama.num_heads, llama.num_kv_heads, llama.head_width) == (64, 8, 4, 16)
    assert (llama.mlp_width, llama.num_layers) == (96, 4)
    marian = scaled(TINY["marian"], 32, 6)
    assert isinstance(marian, MarianConfig)
    assert (marian.num_encoder_heads, marian.num_decoder_heads, marian.encoder_mlp_width) == (8, 4, 64)
    assert (marian.num_encoder_layers, marian.num_decoder_layers) == (6, 3)


@pytest.mark.parametrize("name", BASES)
def test_the_shallowest_model_differs_in_layers_alone(name):
    shallow = shallowest(BASES[name])
    assert shallow.depth == (2 if name == "gpt-banded" else 1)
    assert scaled(shallow, shallow.width) == shallow
    assert {**vars(shallow), **{key: value for key, value in vars(BASES[name]).items() if "layers" in key}} == vars(
        BASES[name]
    )


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="give aspect, by which layers grow with the width, or layers, which do not"):
        Shaping(aspect=64, layers=2)
    with pytest.raises(UserError, match="a width of 100 is no multiple of 16: take 96 or 112"):
        scaled(GPT, 100, shaping=Shaping())
    with pytest.raises(
        UserError, match="a width of 144 is not heads of 16, in a number that 4 divides: take 128 or 192"
    ):
        scaled(GPT, 144, shaping=Shaping(tensor=4))
    with pytest.raises(UserError, match="tensor is 0: it must be at least 1"):
        Shaping(tensor=0)
    with pytest.raises(UserError, match=r"head_widths are \(3,\): give even ones"):
        Shaping(head_widths=(3,))
