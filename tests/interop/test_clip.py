"""CLIP against Transformers': both towers' vectors, scores, gradients, weights and configs there and back."""

import dataclasses

import numpy as np
import pytest
import transformers

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.clip import FAMILIES
from transformer.models.clip import ClipConfig

from . import parity, towers

[CLIP] = FAMILIES
PLAIN = ClipConfig(
    image_size=12, patch_size=4, width=24, num_layers=3, num_heads=3, mlp_width=40, vocab_size=37, context_length=11,
    text_width=16, text_layers=2, text_heads=2, text_mlp_width=28, projection_width=10, end_id=36,
)  # fmt: skip
ODD = dataclasses.replace(
    PLAIN, image_size=15, patch_size=3, channels=1, width=20, num_heads=5, text_layers=4, text_width=21, text_heads=3,
    activation="gelu", text_activation="gelu_tanh", norm_epsilon=1e-4, end_id=20, projection_width=33,
)  # fmt: skip
OLD = dataclasses.replace(PLAIN, num_layers=1, patch_size=6, text_activation="gelu", end_id=None, initial_scale=1.5)
CASES = {"plain": PLAIN, "odd": ODD, "the highest id ends a text": OLD}


def batch_of(config, **options):
    return towers.batch_of(config, end_id=config.vocab_size - 1 if config.end_id is None else config.end_id, **options)


@pytest.fixture(params=few(CASES, "odd", "the highest id ends a text"), scope="module")
def pair(request):
    return parity.make_pair(CLIP, CASES[request.param])


def test_outputs_are_transformers(pair):
    towers.assert_outputs(pair, batch_of(pair.config))


def test_a_text_is_read_at_its_first_end(pair):
    """CLIP's own tokenizer pads with what ends a text."""
    batch = batch_of(pair.config)
    end = pair.config.vocab_size - 1 if pair.config.end_id is None else pair.config.end_id
    batch["tokens"] = np.where(batch["segment_ids"], batch["tokens"], end)
    towers.assert_outputs(pair, batch)
    towers.assert_outputs(pair, batch | {"segment_ids": np.ones_like(batch["segment_ids"])})


def test_images_of_another_size_have_resized_positions(pair):
    batch = batch_of(dataclasses.replace(pair.config, image_size=7 * pair.config.patch_size))
    towers.assert_outputs(pair, batch, interpolate_pos_encoding=True)


def test_gradients_are_transformers(pair):
    towers.assert_gradients(pair, batch_of(pair.config))


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    batch = batch_of(pair.config)
    parity.assert_reloads(pair, tmp_path / "out", lambda model: towers.their_outputs(pair, batch, model)[-1])


def test_old_files_with_position_ids_are_read():
    pair = parity.make_pair(CLIP, PLAIN)
    ids = {f"{tower}_model.embeddings.position_ids": np.arange(11)[None] for tower in ("text", "vision")}
    params = CLIP.from_hf(pair.tensors | ids, PLAIN)
    np.testing.assert_array_equal(params["similarity"]["scale"], pair.params["similarity"]["scale"])


def test_old_files_repeat_their_towers():
    config = CLIP.write_config(PLAIN)
    config["text_config_dict"] = config.pop("text_config")
    config["vision_config_dict"] = {"hidden_size": PLAIN.width}
    assert CLIP.read_config(config, "contrastive") == PLAIN


def test_defaults_are_transformers():
    config = transformers.CLIPConfig(text_config={}, vision_config={}).to_dict()
    assert CLIP.read_config(config, "contrastive") == ClipConfig()
    assert CLIP.read_config({"model_type": "clip"}, "contrastive") == ClipConfig()
    assert ClipConfig().num_params() == 151_277_313


@pytest.mark.parametrize(
    ("tower", "field", "value", "words"),
    [
        ("text_config", "window", 3, "text_config.window"),
        ("vision_config", "hidden_act", "mish", "vision_config.hidden_act"),
        ("vision_config", "layer_norm_eps", 1e-3, "layer_norm_eps, .* that differ"),
        ("vision_config", "image_size", 13, "image_size"),
        ("text_config", "hidden_size", "16", "text_config.hidden_size"),
        ("text_config", "model_type", "bert", "text_config: model_type is 'bert'"),
        ("text_config", "eos_token_id", 99, "eos_token_id"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tower, field, value, words):
    config = CLIP.write_config(PLAIN)
    config[tower] = config[tower] | {field: value}
    with pytest.raises(UserError, match=words):
        CLIP.read_config(config, "contrastive")
