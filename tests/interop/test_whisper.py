"""Whisper against Transformers' on random weights, in odd shapes, and its published sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop import flax_names
from transformer.interop.whisper import WHISPER
from transformer.layers.execution import Execution
from transformer.models.whisper import WhisperConfig

from . import parity

SHAPES = {
    "odd widths": WhisperConfig(
        vocab_size=61,
        width=30,
        num_encoder_layers=3,
        num_decoder_layers=2,
        num_encoder_heads=5,
        num_decoder_heads=3,
        encoder_mlp_width=37,
        decoder_mlp_width=22,
        encoder_places=19,
        context_length=21,
        decoder_start_id=3,
    ),
    "one layer, 128 bins": WhisperConfig(
        vocab_size=33,
        width=14,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_encoder_heads=1,
        num_decoder_heads=7,
        encoder_mlp_width=9,
        decoder_mlp_width=11,
        bins=128,
        encoder_places=8,
        context_length=40,
        decoder_start_id=0,
        activation="relu",
    ),
    "none": WhisperConfig(
        vocab_size=47,
        width=24,
        num_encoder_layers=2,
        num_decoder_layers=4,
        num_encoder_heads=3,
        num_decoder_heads=4,
        encoder_mlp_width=40,
        decoder_mlp_width=31,
        bins=7,
        encoder_places=13,
        context_length=16,
        decoder_start_id=1,
        activation="gelu_tanh",
        head="none",
    ),
}


def _uncomputed(model):
    """Moves the stored sinusoids: nothing may take computed ones in their place."""
    with torch.no_grad():
        model.get_encoder().embed_positions.weight.add_(
            torch.randn(model.get_encoder().embed_positions.weight.shape, generator=torch.Generator().manual_seed(1))
        )


@pytest.fixture(params=few(SHAPES, "odd widths"), scope="module")
def pair(request):
    return parity.make_pair(WHISPER, SHAPES[request.param], change=_uncomputed)


def _batch(config, length=11):
    """Returns three rows: one full, two padded on the right; without the last token, which is padding to them."""
    rng = np.random.default_rng(0)
    segments = np.ones((3, length), np.int32)
    segments[1, -2:] = 0
    segments[2, -5:] = 0
    return {
        "features": rng.normal(size=(3, *config.input_size)).astype(np.float32),
        "decoder_tokens": rng.integers(0, config.vocab_size - 1, (3, length)).astype(np.int32),
        "decoder_positions": np.broadcast_to(np.arange(length, dtype=np.int32), (3, length)),
        "decoder_segment_ids": segments,
    }


def _theirs(model, batch):
    outputs = model(
        input_features=parity.tensor(batch["features"].transpose(0, 2, 1)),
        decoder_input_ids=parity.tensor(batch["decoder_tokens"]),
        decoder_attention_mask=parity.tensor(batch["decoder_segment_ids"]),
    )
    scores = outputs.logits if "logits" in outputs else outputs.last_hidden_state
    return scores, outputs.encoder_last_hidden_state


def _ours(outputs):
    return outputs.logits if hasattr(outputs, "unembedding_VD") else outputs.hidden_BTD


def _assert_relative(have, want, real=...):
    want, have = np.asarray(want), np.asarray(have)
    assert have.shape == want.shape
    assert np.abs(have - want)[real].max() <= parity.TOLERANCE * np.abs(want[real]).max()


def test_outputs_of_both_sides_are_transformers(pair):
    batch = _batch(pair.config)
    with torch.no_grad():
        scores, memory = _theirs(pair.theirs, batch)
    real = batch["decoder_segment_ids"] > 0
    _assert_relative(_ours(pair.apply(batch)), scores, real)
    model = pair.config.build(Execution())
    encoded = model.apply({"params": pair.params}, batch["features"], method="encode")
    _assert_relative(encoded, memory)
    given = {name: array for name, array in batch.items() if name != "features"} | {"memory": encoded}
    _assert_relative(_ours(pair.apply(given)), scores, real)


def test_gradients_are_transformers(pair):
    batch = _batch(pair.config)
    real = batch["decoder_segment_ids"][..., None] > 0
    _, weights = parity.weighted_sum(jnp.zeros(_ours(pair.apply(batch)).shape))
    weights = np.where(real, weights, 0).astype(np.float32)

    def their_score(model):
        return (_theirs(model, batch)[0] * torch.tensor(weights)).sum()

    parity.assert_gradients(pair, batch, lambda outputs: jnp.sum(_ours(outputs) * weights), their_score)


def test_stored_sinusoids_get_no_gradient(pair):
    batch, model = _batch(pair.config), pair.config.build(Execution())
    gradients = jax.grad(lambda params: _ours(model.apply({"params": params}, **batch)).sum())(pair.params)
    encoder = gradients["backbone"]["encoder"]
    assert not np.any(encoder["sinusoids"])
    assert np.any(encoder["stem"]["first"]["kernel"])


def test_a_cache_changes_nothing(pair):
    batch, model = _batch(pair.config), pair.config.build(Execution())
    whole = np.asarray(_ours(pair.apply(batch)))[0]
    cache, said = model.init_cache(3, 11), []
    for place in range(11):
        step = {name: array[:, place : place + 1] for name, array in batch.items() if name.startswith("decoder_")} | (
            {"features": batch["features"]} if place == 0 else {}
        )
        outputs = model.apply({"params": pair.params}, **step, cache=cache)
        cache = outputs.cache
        said.append(np.asarray(_ours(outputs))[0, 0])
    _assert_relative(np.stack(said), whole)


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    batch = _batch(pair.config)
    parity.assert_reloads(pair, tmp_path / "out", lambda model: _theirs(model, batch)[0])


_PUBLISHED = {  # width, layers, heads, bins, words
    "tiny.en": (384, 4, 6, 80, 51864),
    "tiny": (384, 4, 6, 80, 51865),
    "base": (512, 6, 8, 80, 51865),
    "small": (768, 12, 12, 80, 51865),
    "medium": (1024, 24, 16, 80, 51865),
    "large-v3": (1280, 32, 20, 128, 51866),
}


@pytest.mark.parametrize("name", _PUBLISHED)
def test_published_sizes_have_transformers_parameters(name):
    """The encoder's sinusoids are counted, as there, though nothing trains them; the tied head once."""
    width, layers, heads, bins, words = _PUBLISHED[name]
    sides = {f"{side}_{field}": value for side in ("encoder", "decoder") for field, value in (
        ("layers", layers), ("attention_heads", heads), ("ffn_dim", 4 * width),
    )}  # fmt: skip
    config = transformers.WhisperConfig(vocab_size=words, num_mel_bins=bins, d_model=width, **sides)
    with torch.device("meta"):
        theirs = transformers.WhisperForConditionalGeneration(config)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    ours = WHISPER.read_config(config.to_dict(), "language_model")
    assert ours.num_params() == count
    if name in ("tiny", "tiny.en", "base"):
        assert count == {"tiny": 37_760_640, "tiny.en": 37_760_256, "base": 72_593_920}[name]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("encoder_layerdrop", 0.1, "encoder_layerdrop = 0.1 is not supported, only 0.0"),
        ("scale_embedding", True, "scale_embedding = True is not supported, only False"),
        ("tie_word_embeddings", False, "tie_word_embeddings = False is not supported, only True"),
        ("num_hidden_layers", 3, "num_hidden_layers = 3 is not supported, only encoder_layers's 4"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        WHISPER.read_config(WHISPER.write_config(WhisperConfig()) | {field: value}, "language_model")


def test_another_epsilon_is_not_exported():
    assert not WHISPER.fits(dataclasses.replace(SHAPES["none"], norm_epsilon=1e-6))


def test_flax_names_there_and_back(pair):
    """The names and axes of FlaxWhisper's parameters: a convolution's kernel is [taps, inputs, outputs]."""
    table = WHISPER.table(pair.config)
    flax = dict(flax_names.stream(table, WHISPER.flax, pair.params))
    encoder = f"{table.prefix.replace('.', '/')}encoder"
    assert flax[f"{encoder}/conv1/kernel"].shape == (3, pair.config.bins, pair.config.width)
    assert f"{encoder}/embed_positions/embedding" in flax
    back = WHISPER.from_hf(flax_names.torch_names(flax), pair.config)
    jax.tree.map(np.testing.assert_array_equal, back, pair.params)
