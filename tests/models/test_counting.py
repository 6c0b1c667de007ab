"""Parameters and FLOPs: against what JAX traces, what papers print, and a mask counted one pair at a time."""

import dataclasses
import math
from collections import Counter

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import configs
from tests.tiny_models import TINY
from tools import scaling
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models.conventions import CONVENTIONS, flops_per_token, megatron, num_params
from transformer.models.gpt import GPTConfig
from transformer.models.llama import LlamaConfig
from transformer.scaling.commands.account import describe


def lengths(config, source=7, target=5):
    if config.kind == "speech":
        return config.fixed_length, target
    return (source, target) if config.kind == "encoder_decoder" else (source, 0)


def traced_products(jaxpr, times=1, outer=""):
    """Yields (modules, FLOPs) of each matrix product in a traced program, a scan's as often as it runs."""
    for equation in jaxpr.eqns:
        where = f"{outer}/{equation.source_info.name_stack}"
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            yield where, times * 2 * summed * math.prod(equation.outvars[0].aval.shape)
        runs = times * equation.params["length"] if equation.primitive.name == "scan" else times
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: isinstance(v, jex.Jaxpr | jex.ClosedJaxpr)
        ):
            if isinstance(inner, jex.Jaxpr | jex.ClosedJaxpr):
                yield from traced_products(getattr(inner, "jaxpr", inner), runs, where)


def kind_of(where):
    if "/pooler/" in where:
        return "scores" if "->" in where else "head"
    if "/attention" in where or "/cross_attention" in where:
        return "scores" if "->" in where else "attention"
    embeds = "/projection" in where or "/stem/" in where
    return "mlp" if "/mlp/" in where else "embedding" if embeds else "head"


def products(config, length, target_length):
    """What JAX traces of a forward pass, by kind; the reference attention multiplies all pairs, so windows are off."""
    inputs = config.example_inputs(1, length)
    if target_length:
        inputs |= {key: array[:, :target_length] for key, array in inputs.items() if key.startswith("decoder_")}
    inputs |= {key: jnp.zeros((1, length), jnp.int32) for key in inputs if key.startswith("boundary_")}
    module = config.build(Execution(attention="reference"))

    def scores(params, inputs):
        out = module.apply({"params": params}, **inputs)
        if config.kind == "two_towers":  # what images and texts make of each other is no example's own
            return out.images_BP, out.texts_NP
        boundary = getattr(out, "boundary", None)
        return out.hidden_BTD if config.head == "none" else out.logits, boundary and boundary.logits

    traced = Counter()
    for where, flops in traced_products(jax.make_jaxpr(scores)(nn.meta.unbox(config.abstract_params()), inputs).jaxpr):
        traced[kind_of(where)] += flops
    return traced


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *((name, None) for name in TINY),
        ("gpt", "none"),
        ("gpt1", "token_classification"),
        ("llama", "sequence_classification"),
        ("roberta", "sequence_classification"),
        ("distilbert", "multiple_choice"),
        ("bart", "sequence_classification"),
        ("t5", "none"),
    ],
)
def test_every_kind_is_what_jax_traces(name, head):
    windows = {"gpt": {"band": None}, "llama": {"window": None}}
    config = dataclasses.replace(TINY[name], **windows.get(name, {}), **({} if head is None else {"head": head}))
    traced = products(config, *lengths(config))
    counted = {kind: flops for kind, flops in config.counts.flops_by_kind(*lengths(config)).items() if flops}
    if config.routing is not None:  # experts are multiplied in blocks of rows, which are not full
        del traced["mlp"], counted["mlp"]
    assert counted == {kind: 3 * flops for kind, flops in traced.items()}
    assert config.routing is not None or config.flops_per_example(*lengths(config)) == 3 * sum(traced.values())


# FLOPs of training on one example: what a formula of each family's own gave, itself held to XLA's cost analysis.
BY_FORMULA = {
    ("gpt2-small", 1024, 0): 874_944_921_600,
    ("gpt3-175b", 2048, 0): 2_178_436_822_990_848,
    ("gpt1", 512, 0): 385_409_875_968,
    ("llama3-70b", 8192, 0): 3_943_913_849_094_144,
    ("mistral-7b", 8192, 0): 402_266_636_943_360,
    ("bert-base", 512, 0): 363_736_212_480,
    ("roberta-large", 512, 0): 1_166_363_590_656,
    ("albert-xxlarge", 512, 0): 7_591_440_728_064,
    ("distilbert-base", 512, 0): 218_777_518_080,
    ("spanbert-base", 512, 0): 434_450_202_624,
    ("transformer-big", 256, 154): 261_173_280_768,
    ("t5-11b", 512, 114): 22_769_306_173_440,
    ("mt5-xxl", 1024, 229): 43_849_521_168_384,
    ("bart-large", 512, 307): 1_036_194_269_184,
    ("marian-base", 256, 154): 86_399_834_112,
}


@pytest.mark.parametrize(("name", "length", "target_length"), BY_FORMULA)
def test_published_sizes_cost_what_their_formulas_say(name, length, target_length):
    model = configs.get(name).model
    assert model.flops_per_example(length, target_length) == BY_FORMULA[name, length, target_length]


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_has_a_kind(name):
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.meta.unbox(TINY[name].abstract_params())))
    assert (
        sum(TINY[name].counts.params_by_kind().values()) == TINY[name].num_params() == num_params(TINY[name]) == total
    )


def test_parameters_by_kind():
    """GPT-2 small, by hand; its head is its embedding, counted once."""
    width, layers = 768, 12
    assert configs.get("gpt2-small").model.counts.params_by_kind() == {
        "embedding": 50257 * width,
        "positions": 1024 * width,
        "attention": layers * (4 * width**2 + 4 * width),
        "mlp": layers * (8 * width**2 + 5 * width),
        "norms": (2 * layers + 1) * 2 * width,
        "head": 0,
    }
    assert TINY["t5"].counts.params_by_kind()["head"] == 32 * 16  # not tied


@given(st.integers(1, 40), st.sampled_from([None, 1, 2, 9, 50]))
def test_causal_pairs_are_those_of_the_mask(length, window):
    config = dataclasses.replace(TINY["gpt"], band=window)
    query, key = np.indices((length, length))
    dense = (key <= query).sum()
    banded = ((key <= query) & (window is None or query - key < window)).sum()
    whole, seen = (config.counts.flops_by_kind(length, causal=causal)["scores"] for causal in (False, True))
    assert seen == 12 * config.width * (dense + banded)  # a layer of each
    assert whole == 12 * config.width * (length**2 + length * min(length, window or length))


def test_causal_halves_are_the_decoders_alone():
    bert, t5 = TINY["bert"], TINY["t5"]
    assert bert.counts.flops_by_kind(9, causal=True) == bert.counts.flops_by_kind(9)
    saved = t5.counts.flops_by_kind(9, 6)["scores"] - t5.counts.flops_by_kind(9, 6, causal=True)["scores"]
    assert saved == 12 * t5.num_decoder_layers * t5.num_heads * t5.head_width * 6 * 5 / 2


# Brown et al. 2020, table D.1: parameters in millions, training tokens in billions, FLOPs a parameter and token, FLOPs.
TABLE_D_1 = {
    "t5-small": (60, 1000, 3, 1.80e20),
    "t5-base": (220, 1000, 3, 6.60e20),
    "t5-large": (770, 1000, 3, 2.31e21),
    "t5-3b": (3000, 1000, 3, 9.00e21),
    "t5-11b": (11000, 1000, 3, 3.30e22),
    "bert-base": (109, 250, 6, 1.64e20),
    "bert-large": (355, 250, 6, 5.33e20),
    "roberta-base": (125, 2000, 6, 1.50e21),
    "roberta-large": (355, 2000, 6, 4.26e21),
    "gpt3-small": (125, 300, 6, 2.25e20),
    "gpt3-medium": (356, 300, 6, 6.41e20),
    "gpt3-large": (760, 300, 6, 1.37e21),
    "gpt3-xl": (1320, 300, 6, 2.38e21),
    "gpt3-2-7b": (2650, 300, 6, 4.77e21),
    "gpt3-6-7b": (6660, 300, 6, 1.20e22),
    "gpt3-13b": (12850, 300, 6, 2.31e22),
    "gpt3-175b": (174600, 300, 6, 3.14e23),
}
# Where the table's N is no model's: T5's are names, not counts; BERT large's is RoBERTa large's, with more words.
NAMED = {"t5-base": 0.014, "t5-large": -0.042, "t5-3b": -0.05, "t5-11b": 0.028, "bert-large": -0.054, "bert-base": 0.01}


@pytest.mark.parametrize("name", TABLE_D_1)
def test_6n_gives_gpt3s_table_of_compute(name):
    millions, billions, each, published = TABLE_D_1[name]
    assert each * millions * billions * 1e15 == pytest.approx(published, rel=5e-3)  # the table is what it says it is
    config = configs.get(name).model
    have = 1e9 * billions * flops_per_token("6N", config, *lengths(config, 512, 512))
    assert have / published == pytest.approx(1 + NAMED.get(name, 0), abs=0.009 if name == "t5-small" else 0.005)


PALM = LlamaConfig(
    vocab_size=256_000, context_length=2048, width=18432, num_layers=118, num_heads=48, num_kv_heads=1, head_width=256,
    mlp_width=4 * 18432, tie_embeddings=True,
)  # fmt: skip


def test_palms_utilisation():
    """Chowdhery et al. 2022, appendix B: 238.3K tokens/s on 6,144 TPU v4; 46.2 %, and 45.7 % without attention.

    Its blocks are parallel, which changes neither count but for norms.
    """
    assert num_params(PALM) / 1e9 == pytest.approx(540.35, abs=0.02)
    rate = 238.3e3 / (6144 * 275e12)
    assert round(100 * rate * flops_per_token("palm", PALM, 2048), 1) == 46.2
    assert round(100 * rate * flops_per_token("6N", PALM, 2048), 1) == 45.7


@pytest.mark.parametrize(
    ("layers", "width", "heads", "billions", "tokens", "gpus", "rate", "days"),
    [(96, 12288, 96, 174.6, 300e9, 1024, 140e12, 34), (128, 25600, 160, 1008.0, 450e9, 3072, 163e12, 84)],
)
def test_megatrons_days(layers, width, heads, billions, tokens, gpus, rate, days):
    """Narayanan et al. 2021, table 1 and section 5.1: equation 4, 8 T P / (n X); ours is equation 3, term by term."""
    config = GPTConfig(vocab_size=51200, context_length=2048, width=width, num_layers=layers, num_heads=heads)
    assert num_params(config) / 1e9 == pytest.approx(billions, abs=0.05)
    assert round(8 * tokens * num_params(config) / (gpus * rate) / 86400) == days
    equation_3 = 96 * 2048 * layers * width**2 * (1 + 2048 / (6 * width) + 51200 / (16 * layers * width))
    assert megatron(config, 2048) == pytest.approx(equation_3, rel=1e-12)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "millions", "ratio"),
    [
        (10, 640, 10, 73, 1.03),
        (20, 1024, 16, 305, 1.10),
        (24, 1280, 10, 552, 1.08),
        (26, 1792, 14, 1142, 1.04),
        (28, 2048, 16, 1592, 1.03),
        (40, 3584, 28, 6794, 0.99),
    ],
)
def test_chinchillas_ratios(layers, width, heads, millions, ratio):
    """Hoffmann et al. 2022, table A4: C / (6 N D), to its last digit; of the blocks alone, though appendix F counts
    embeddings and logits too, which would make the first 1.58. N has the weights of relative positions."""
    words = 32_000
    config = GPTConfig(vocab_size=words, context_length=2048, width=width, num_layers=layers, num_heads=heads)
    params = 13 * layers * width**2 + words * width
    assert params / 1e6 == pytest.approx(millions, rel=0.01)
    blocks = flops_per_token("chinchilla", config, 2048) - 2 * 6 * words * width
    assert blocks / (6 * params) == pytest.approx(ratio, abs=0.0051)


def test_conventions_differ_by_what_they_say():
    config = configs.get("gpt2-small").model
    count = {name: flops_per_token(name, config, 1024) for name in CONVENTIONS}
    table, scores = 50257 * 768, 12 * 12 * 768 * 1024
    assert count["palm"] - count["6N"] == pytest.approx(scores, rel=1e-12)
    assert count["6N"] - count["6N-non-embedding"] == pytest.approx(6 * (table + 1024 * 768), rel=1e-12)
    assert count["chinchilla"] - count["exact"] == pytest.approx(6 * table + 9 * 12 * 12 * 1024, rel=1e-12)
    assert count["exact"] - count["exact-causal"] == pytest.approx(scores * 1023 / 2048, rel=1e-12)
    assert count["exact"] == pytest.approx(config.flops_per_token(1024), rel=1e-14)


def test_an_account_names_its_conventions():
    lines = describe(configs.get("t5-small").model, 512, 114)
    assert lines[0] == "t5, 512 + 114 tokens"
    assert any(line.startswith("sum") and "60,506,624" in line for line in lines)
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in CONVENTIONS)
    assert max(map(len, lines)) <= 160


def test_the_command_counts_a_preset(capsys):
    scaling.main(["flops", "--preset", "t5-small"])
    assert capsys.readouterr().out.splitlines() == describe(configs.get("t5-small").model, 512, 114)
    scaling.main(["flops", "--preset", "whisper-tiny"])
    assert capsys.readouterr().out.splitlines() == describe(configs.get("whisper-tiny").model, 1500, 448)
    with pytest.raises(UserError, match="--target-length 3: gpt2-small has one sequence, give --length alone"):
        scaling.main(["flops", "--preset", "gpt2-small", "--target-length", "3"])
    with pytest.raises(UserError, match="--length 0, --target-length 0: an example has at least one token"):
        scaling.main(["flops", "--preset", "gpt2-small", "--length", "0"])


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"unknown convention 'chinchila' of counting FLOPs: did you mean chinchilla\?"):
        flops_per_token("chinchila", TINY["gpt"], 4)
    with pytest.raises(UserError, match="unknown count of parameters 'all'; choose from: total, non-embedding"):
        num_params(TINY["gpt"], "all")
