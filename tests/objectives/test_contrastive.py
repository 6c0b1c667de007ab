"""The contrastive losses against Transformers', in chunks, with rows that are not there, and on eight devices."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from tests.tiny_models import TINY
from transformer.data.images.config import ImagesConfig
from transformer.data.kinds import open_dataset
from transformer.errors import UserError
from transformer.models.two_towers import TowersOutput
from transformer.objectives.contrastive import Contrastive
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training.experiment import Experiment, TrainConfig

LOSSES = ("softmax", "sigmoid")


def outputs(rows=8, bias=None, seed=0):
    rng = np.random.default_rng(seed)
    images, texts = rng.normal(size=(2, rows, 6)).astype(np.float32)
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    return TowersOutput(jnp.asarray(images), jnp.asarray(texts), jnp.float32(7.0), bias)


def batch(weights):
    return {"weights": jnp.asarray(weights, jnp.float32)}


def mean_loss(objective, out, weights):
    loss_sum, weight, _ = objective.loss(out, batch(weights))
    return loss_sum / weight


def gradients(objective, out, weights):
    def loss(images, texts):
        return mean_loss(objective, out.replace(images_BP=images, texts_NP=texts), weights)

    return jax.value_and_grad(loss, argnums=(0, 1))(out.images_BP, out.texts_NP)


def test_softmax_is_transformers():
    out = outputs()
    want = image_text_contrastive_loss(torch.tensor(np.asarray(out.logits.T)))
    np.testing.assert_allclose(mean_loss(Contrastive(), out, np.ones(8)), want, rtol=1e-6)


def test_sigmoid_is_transformers():
    """`SiglipModel.forward`, which has no function of its own for it."""
    out = outputs(bias=jnp.float32(-3.0))
    logits = torch.tensor(np.asarray(out.logits.T))
    signs = 2 * torch.eye(8) - 1
    want = -torch.nn.functional.logsigmoid(signs * logits).sum(dim=-1).mean()
    np.testing.assert_allclose(mean_loss(Contrastive("sigmoid"), out, np.ones(8)), want, rtol=1e-6)


@pytest.mark.parametrize("loss_of", LOSSES)
@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_chunks_give_the_whole_batchs_loss(loss_of, chunk):
    weights = np.array([1, 1, 0, 1, 1, 1, 0, 1])
    out = outputs()
    whole = gradients(Contrastive(loss_of), out, weights)
    jax.tree.map(
        lambda have, want: np.testing.assert_allclose(have, want, atol=1e-6, rtol=1e-6),
        gradients(Contrastive(loss_of, chunk=chunk), out, weights),
        whole,
    )


@pytest.mark.parametrize("loss_of", LOSSES)
def test_rows_of_padding_are_not_there(loss_of):
    out, there = outputs(), np.array([0, 1, 2, 4, 5])
    weights = np.isin(np.arange(8), there)
    fewer = out.replace(images_BP=out.images_BP[there], texts_NP=out.texts_NP[there])
    have, want = Contrastive(loss_of).loss(out, batch(weights)), Contrastive(loss_of).loss(fewer, batch(np.ones(5)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), have, want)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_nothing_but_padding_costs_nothing(loss_of):
    loss_sum, weight, metrics = Contrastive(loss_of, chunk=3).loss(outputs(), batch(np.zeros(8)))
    assert (loss_sum, weight) == (0, 0)
    assert all(value == 0 for value in metrics.values())
    out = outputs()
    grad = jax.grad(lambda x: Contrastive(loss_of, chunk=3).loss(out.replace(images_BP=x), batch(np.zeros(8)))[0])
    np.testing.assert_array_equal(grad(out.images_BP), 0)


def test_accuracy_counts_equal_texts_as_right():
    out = outputs()
    equal = out.replace(images_BP=out.images_BP[jnp.array([0, 0])], texts_NP=out.images_BP[jnp.array([0, 0])])
    assert Contrastive().loss(equal, batch(np.ones(2)))[2]["accuracy"] == 2
    swapped = out.replace(texts_NP=out.images_BP[::-1])
    assert Contrastive().loss(swapped, batch(np.ones(8)))[2]["accuracy"] == 0


@pytest.mark.parametrize("loss_of", LOSSES)
@pytest.mark.parametrize("chunk", [None, 3])
def test_eight_devices_give_one_devices_loss(loss_of, chunk):
    out, weights, objective = outputs(16), np.arange(16) != 5, Contrastive(loss_of, chunk=chunk)
    want = gradients(objective, out, weights)
    with jax.set_mesh(make_mesh(MeshConfig(data=4, fsdp=2))):
        have = jax.jit(
            lambda images, texts: gradients(objective, out.replace(images_BP=images, texts_NP=texts), weights)
        )(out.images_BP, out.texts_NP)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), have, want)


def test_the_whole_matrix_never_exists_in_chunks():
    def sizes(chunk):
        function = jax.grad(lambda images: Contrastive(chunk=chunk).loss(out.replace(images_BP=images), ones)[0])
        text = jax.jit(function).lower(out.images_BP).as_text()
        return "tensor<64x64xf32>" in text

    out, ones = outputs(64), batch(np.ones(64))
    assert sizes(None)
    assert not sizes(8)


def test_accumulation_is_refused():
    with pytest.raises(UserError, match="accumulation"):
        Experiment("tiny", TINY["clip"], Contrastive(), train=TrainConfig(batch_size=8, accumulation=2, seq_len=16))


def shapes(model):
    return open_dataset(
        ImagesConfig(embedded="shapes"),
        Contrastive().reading(56),
        vocab_size=model.vocab_size,
        input_size=model.input_size,
    )


CLIP = dataclasses.replace(TINY["clip"], vocab_size=384, context_length=56, image_size=32, end_id=2)


def test_examples_are_images_with_their_captions():
    dataset = shapes(CLIP)
    setting = Contrastive().setting(dataset, 56, CLIP)
    example = Contrastive().example(dataset.validation[0], np.random.default_rng(0), setting)
    assert example["inputs"]["images"].shape == (32, 32, 3)
    tokens, segments = example["inputs"]["tokens"], example["inputs"]["segment_ids"]
    assert tokens[segments.sum() - 1] == CLIP.end_id
    assert example["weights"] == 1


@pytest.mark.parametrize("end_id", [None, 31])
def test_texts_that_end_otherwise_are_refused(end_id):
    with pytest.raises(UserError, match="--model.end-id: the model reads a text at token .*, and captions end in 2"):
        Contrastive().setting(shapes(CLIP), 56, dataclasses.replace(CLIP, end_id=end_id))


def test_texts_of_another_length_than_a_model_that_reads_padding_are_refused():
    siglip = dataclasses.replace(TINY["siglip"], vocab_size=384, context_length=64, image_size=32)
    with pytest.raises(UserError, match=r"--train.seq-len 56: .*: give the 64 of --model.context-length"):
        Contrastive("sigmoid").setting(shapes(siglip), 56, siglip)
    Contrastive("sigmoid").setting(shapes(siglip), 64, siglip)


def test_data_without_captions_are_refused():
    with pytest.raises(UserError, match="the objective contrastive reads captions"):
        Contrastive().setting(SimpleNamespace(), 56, CLIP)
