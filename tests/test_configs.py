"""Presets: the published ones have the papers' sizes; unknown names are refused with the nearest."""

import dataclasses

import pytest

import configs
from tests.debugging.test_parallel_check import READERS, SHRINKABLE
from tests.exhaustive import few
from transformer.errors import UserError
from transformer.training import experiment as experiments


def test_every_preset_says_what_it_is():
    assert configs.DEFAULT in configs.PRESETS
    for name, summary in configs.summaries().items():
        assert summary, name


# One or two presets of each family, and of each kind of run; all others are exhaustive.
FEW = (
    "gpt-prefix-python", "gpt2-small", "gpt3-small", "gpt1", "llama-python", "llama3-8b", "mistral-7b", "qwen2-0-5b",
    "qwen3-0-6b", "bert-base", "bert-scaling", "roberta-base", "albert-base", "distilbert-python", "spanbert-base",
    "t5-python", "t5-ul2-python", "mt5-small", "bart-base", "marian-python", "transformer-python",
)  # fmt: skip


@pytest.mark.exhaustive
def test_a_preset_of_each_family_is_shrunk():
    families = {configs.get(name).model.family for name in configs.PRESETS}
    assert {configs.get(name).model.family for name in (*SHRINKABLE, *READERS)} == families


@pytest.mark.parametrize("name", few(configs.PRESETS, *FEW))
def test_every_preset_builds_and_survives_its_record(name):
    preset = configs.get(name)
    assert preset.name == name
    assert preset.model.num_params() > 0
    assert experiments.from_dict(experiments.to_dict(preset), "here") == preset


# Where a preset has BERT's next sentence head, its count includes it.
PARAMETERS = {
    "gpt1": 116_534_784,
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "bert-base": 110_106_428,
    "roberta-base": 124_697_433,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-11b": 11_307_321_344,
    "ul2-20b": 19_459_613_696,
    "bart-base": 139_420_416,
    "bart-large": 406_291_456,
    "whisper-tiny": 37_760_640,
    "clip-b32": 151_277_313,
    "siglip-b16": 203_155_970,
    "llama-7b": 6_738_415_616,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30_532_122_624,
    "olmoe-1b-7b": 6_919_161_856,
    "deepseek-v3": 671_026_419_200,  # 14,848 of them the biases of the experts' choice
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets_have_the_published_parameters(name):
    assert configs.get(name).model.num_params() == PARAMETERS[name]


def test_balance_losses_are_the_published_ones():
    """MegaBlocks and DeepSeek divide by the choices of a token, and DeepSeek adds up its 58 layers' losses."""
    for name, coefficient in {"olmoe-1b-7b": 0.01 / 8, "deepseek-v3": 1e-4 / 8 * 58}.items():
        experts = configs.get(name).model.routing
        assert experts is not None
        assert experts.balance_loss == pytest.approx(coefficient), name


@pytest.mark.parametrize(
    ("name", "head", "count"),
    [
        ("bert-base", "none", 109_482_240),
        ("bert-large", "none", 335_141_888),
        ("albert-base", "masked_lm", 11_221_680),
        ("distilbert-base", "none", 66_362_880),
    ],
)
def test_presets_have_the_published_parameters_under_another_head(name, head, count):
    assert dataclasses.replace(configs.get(name).model, head=head).num_params() == count


# Brown et al. 2020, table 2.1: parameters in millions, layers, width, learning rate, batch in tokens.
TABLE_2_1 = {
    "gpt3-small": (125, 12, 768, 6.0e-4, 0.5e6),
    "gpt3-medium": (350, 24, 1024, 3.0e-4, 0.5e6),
    "gpt3-large": (760, 24, 1536, 2.5e-4, 0.5e6),
    "gpt3-xl": (1300, 24, 2048, 2.0e-4, 1e6),
    "gpt3-2-7b": (2700, 32, 2560, 1.6e-4, 1e6),
    "gpt3-6-7b": (6700, 32, 4096, 1.2e-4, 2e6),
    "gpt3-13b": (13000, 40, 5120, 1.0e-4, 2e6),
    "gpt3-175b": (175000, 96, 12288, 0.6e-4, 3.2e6),
}


@pytest.mark.parametrize("name", TABLE_2_1)
def test_gpt3_is_table_2_1(name):
    millions, layers, width, rate, batch = TABLE_2_1[name]
    preset = configs.get(name)
    assert preset.model.num_params() == pytest.approx(millions * 1e6, rel=0.03)
    assert (preset.model.num_layers, preset.model.width) == (layers, width)
    assert preset.optimizer.learning_rate == rate
    assert preset.train.batch_size * preset.train.seq_len == pytest.approx(batch, rel=0.06)


def test_unknown_preset_offers_the_nearest():
    with pytest.raises(UserError, match="unknown preset 'gpt2-smal': did you mean gpt2-small"):
        configs.get("gpt2-smal")
