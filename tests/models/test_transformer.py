"""The Transformer of 2017 against PyTorch's own layers, and against the paper's equations in float64.

Shape letters: B batch, S length of the source, T of the target, D model width, H heads, K head width, V vocabulary.
"""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from transformer.interop import engine
from transformer.interop.engine import Table
from transformer.interop.rules import dense, embedding, norm, under
from transformer.layers.execution import Execution
from transformer.models.transformer import TransformerConfig

CONFIGS = {
    "odd": TransformerConfig(
        vocab_size=61,
        width=30,
        num_encoder_layers=3,
        num_decoder_layers=2,
        num_encoder_heads=5,
        num_decoder_heads=3,
        encoder_mlp_width=37,
        decoder_mlp_width=22,
    ),
    "one layer, one head": TransformerConfig(
        vocab_size=33,
        width=14,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_encoder_heads=1,
        num_decoder_heads=7,
        encoder_mlp_width=9,
        decoder_mlp_width=11,
    ),
    "deeper decoder, gelu": TransformerConfig(
        vocab_size=7,
        width=24,
        num_encoder_layers=1,
        num_decoder_layers=4,
        num_encoder_heads=2,
        num_decoder_heads=8,
        encoder_mlp_width=24,
        decoder_mlp_width=24,
        activation="gelu",
        norm_epsilon=1e-2,
    ),
}
S, T = 13, 9


def _attention(theirs, ours):
    """PyTorch's attention, whose three input projections are one matrix with names of its own."""
    qkv = dense(f"{ours}/query", f"{ours}/key", f"{ours}/value")
    return {
        theirs: [dataclasses.replace(rule, theirs=f"in_proj_{rule.theirs}") for rule in qkv],
        f"{theirs}.out_proj": dense(f"{ours}/out", inputs=2),
    }


def _table():
    """PyTorch's names."""
    feed_forward = {"linear1": dense("mlp/up"), "linear2": dense("mlp/down"), "norm1": norm("attention_norm")}
    encoder = _attention("self_attn", "attention") | feed_forward | {"norm2": norm("mlp_norm")}
    norms = {"norm2": norm("cross_attention_norm"), "norm3": norm("mlp_norm")}
    decoder = encoder | _attention("multihead_attn", "cross_attention") | norms
    return Table(
        (
            *under("", "backbone/", {"words": embedding("token_embedding")}),
            *under("encoder.layers.{layer}.", "backbone/encoder/stack/layers/", encoder),
            *under("decoder.layers.{layer}.", "backbone/decoder/stack/layers/", decoder),
        )
    )


class Theirs(torch.nn.Module):
    """PyTorch's stacks without the last norms that its nn.Transformer adds, with the paper's embeddings and head."""

    def __init__(self, config):
        super().__init__()
        nn = torch.nn
        shared = {
            "activation": config.activation,
            "layer_norm_eps": config.norm_epsilon,
            "batch_first": True,
            "norm_first": False,
        }
        sizes = config.width, config.num_encoder_heads, config.encoder_mlp_width
        encoder = nn.TransformerEncoderLayer(*sizes, **shared)
        sizes = config.width, config.num_decoder_heads, config.decoder_mlp_width
        decoder = nn.TransformerDecoderLayer(*sizes, **shared)
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.encoder = nn.TransformerEncoder(encoder, config.num_encoder_layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, config.num_decoder_layers)

    def forward(self, batch):
        hidden = lambda segments: torch.tensor(np.where(segments > 0, 0.0, -1e9), dtype=torch.float32)  # noqa: E731
        source, target = hidden(batch["segment_ids"]), hidden(batch["decoder_segment_ids"])
        length = target.shape[1]
        causal = torch.tensor(np.triu(np.full((length, length), -1e9, np.float32), 1))
        memory = self.encoder(self._embed(batch["tokens"], batch["positions"]), src_key_padding_mask=source)
        out = self.decoder(
            self._embed(batch["decoder_tokens"], batch["decoder_positions"]),
            memory,
            tgt_mask=causal,
            tgt_key_padding_mask=target,
            memory_key_padding_mask=source,
        )
        return out @ self.words.weight.T

    def _embed(self, tokens, positions):
        width = self.words.embedding_dim
        sinusoids = torch.tensor(_sinusoids(positions, width), dtype=torch.float32)
        return self.words(torch.tensor(tokens).long()) * width**0.5 + sinusoids


def _sinusoids(positions, width):
    """Section 3.5, in float64: [B, T, D]."""
    pair = np.arange(width) // 2
    angle = positions[..., None] / 10000 ** (2 * pair / width)
    return np.where(np.arange(width) % 2 == 0, np.sin(angle), np.cos(angle))


@pytest.fixture(scope="module")
def batch():
    """A full pair; one padded on the left of both; one padded on the right of both."""
    rng = np.random.default_rng(0)
    inputs = {}
    for prefix, length in (("", S), ("decoder_", T)):
        segments = np.ones((3, length), np.int32)
        segments[1, :3] = 0
        segments[2, -2:] = 0
        inputs[f"{prefix}tokens"] = rng.integers(0, 7, (3, length)).astype(np.int32)
        inputs[f"{prefix}positions"] = np.maximum(np.cumsum(segments, axis=1, dtype=np.int32) - 1, 0)
        inputs[f"{prefix}segment_ids"] = segments
    return inputs


def _both(config):
    """PyTorch's model with random weights, and our parameters from it."""
    theirs = Theirs(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            one = "norm" in name and name.endswith("weight")
            parameter.normal_(1.0 if one else 0.0, 0.2, generator=generator)
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    return theirs, engine.load(_table(), tensors, config.abstract_params()).params


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_pytorchs(name, batch):
    config = CONFIGS[name]
    theirs, params = _both(config)
    have = jax.jit(config.build(Execution()).apply)({"params": params}, **batch).logits
    real = batch["decoder_segment_ids"] > 0
    assert np.abs(np.asarray(have) - theirs(batch).detach().numpy())[real].max() < 1e-5


def test_gradients_are_pytorchs(batch):
    config = CONFIGS["odd"]
    theirs, params = _both(config)
    weights = np.random.default_rng(1).normal(size=(3, T, config.vocab_size)).astype(np.float32) / 30
    weights *= batch["decoder_segment_ids"][:, :, None]
    model = config.build(Execution())
    score = lambda params: (model.apply({"params": params}, **batch).logits * weights).sum()  # noqa: E731
    have = {name: array for name, array, _ in engine.stream(_table(), jax.jit(jax.grad(score))(params))}
    (theirs(batch) * torch.tensor(weights)).sum().backward()
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(have[name], parameter.grad, rtol=1e-5, atol=1e-5, err_msg=name)


def test_logits_are_the_papers_equations(batch):
    """The logits of the row without padding, written down from the paper, in float64."""
    config = CONFIGS["odd"]
    _, params = _both(config)
    have = jax.jit(config.build(Execution()).apply)({"params": params}, **batch).logits[0]
    backbone = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["backbone"])
    words = backbone["token_embedding"]["embedding"]

    def embed(tokens):  # section 3.4, 3.5
        return words[tokens] * np.sqrt(config.width) + _sinusoids(np.arange(len(tokens)), config.width)

    def norm(x, p):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * p["scale"] + p["bias"]

    def attention(x, memory, p, causal):  # section 3.2
        project = lambda x, p: np.einsum("TD,DHK->HTK", x, p["kernel"]) + p["bias"][:, None]  # noqa: E731
        query, key, value = project(x, p["query"]), project(memory, p["key"]), project(memory, p["value"])
        scores = np.einsum("HTK,HSK->HTS", query, key) / np.sqrt(query.shape[-1])
        if causal:
            scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (
            np.einsum("HTK,HKD->TD", np.einsum("HTS,HSK->HTK", weights, value), p["out"]["kernel"]) + p["out"]["bias"]
        )

    def feed_forward(x, p):  # section 3.3
        hidden = np.maximum(x @ p["up"]["kernel"] + p["up"]["bias"], 0)
        return hidden @ p["down"]["kernel"] + p["down"]["bias"]

    def layers(side):
        stack, count = backbone[side]["stack"]["layers"], len(backbone[side]["stack"]["layers"]["mlp_norm"]["scale"])
        return [jax.tree.map(lambda leaf: leaf[index], stack) for index in range(count)]  # noqa: B023

    memory = embed(batch["tokens"][0])
    for p in layers("encoder"):
        memory = norm(memory + attention(memory, memory, p["attention"], False), p["attention_norm"])
        memory = norm(memory + feed_forward(memory, p["mlp"]), p["mlp_norm"])
    x = embed(batch["decoder_tokens"][0])
    for p in layers("decoder"):
        x = norm(x + attention(x, x, p["attention"], True), p["attention_norm"])
        x = norm(x + attention(x, memory, p["cross_attention"], False), p["cross_attention_norm"])
        x = norm(x + feed_forward(x, p["mlp"]), p["mlp_norm"])
    np.testing.assert_allclose(have, x @ words.T, rtol=0, atol=1e-5)


def test_parameter_counts():
    """Table 3: 65 and 213 million, with "about 37000" words. The sum is of the paper's own matrices and biases."""

    def count(words, width, mlp):
        attention, feed_forward, norm = 4 * (width**2 + width), 2 * width * mlp + mlp + width, 2 * width
        encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
        return words * width + 6 * (encoder + decoder)

    base = TransformerConfig()
    big = dataclasses.replace(
        base, width=1024, num_encoder_heads=16, num_decoder_heads=16, encoder_mlp_width=4096, decoder_mlp_width=4096
    )
    assert base.num_params() == count(37000, 512, 2048) == 63_082_496
    assert big.num_params() == count(37000, 1024, 4096) == 214_245_376


def test_initialisation_is_glorots():
    config = dataclasses.replace(CONFIGS["odd"], width=128, num_encoder_heads=4, num_decoder_heads=2)
    params = jax.jit(config.build(Execution()).init)(jax.random.key(0), **config.example_inputs())["params"]["backbone"]
    unboxed = jax.tree.map(np.asarray, jax.tree.map(lambda x: x, params))
    layer = unboxed["decoder"]["stack"]["layers"]
    for kernel_ in (layer["attention"]["query"]["kernel"].value, layer["cross_attention"]["out"]["kernel"].value):
        limit = (6 / 256) ** 0.5
        assert np.abs(kernel_).max() == pytest.approx(limit, rel=1e-3)
        assert kernel_.std() == pytest.approx(limit / 3**0.5, rel=0.02)
    words = unboxed["token_embedding"]["embedding"].value
    assert np.linalg.norm(words, axis=1).mean() == pytest.approx(1.0, rel=0.05)
