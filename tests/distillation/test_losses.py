"""The losses of a student beside its teacher against Hugging Face's `distiller.py`, written out with their own models.

Rows are equally long and hide equally many words: there a mean over all tokens is what ours is.
"""

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from tests.interop import parity
from transformer.distillation.config import TeacherConfig
from transformer.distillation.distillation import Distillation
from transformer.distillation.losses import divergences, spread
from transformer.interop.bert import BERT
from transformer.interop.distilbert import DISTILBERT
from transformer.interop.gpt import GPT2
from transformer.layers.execution import Execution
from transformer.models.bert import BertConfig
from transformer.models.distilbert import DistilBertConfig
from transformer.models.gpt import GPTConfig
from transformer.objectives import CausalLM, MaskedLM

LENGTH, MASKED, VOCABULARY = 12, 3, 61
_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "context_length": 19, "width": 20, "num_heads": 5, "dropout": 0.0}
_ENCODER: dict[str, Any] = {**_SIZES, "mlp_width": 44, "attention_dropout": 0.0}
IGNORED = -100


@pytest.fixture(scope="module")
def encoders():
    """A BERT of four layers that teaches a DistilBERT of two."""
    teacher = parity.make_pair(BERT, BertConfig(**_ENCODER, num_layers=4))
    student = parity.make_pair(DISTILBERT, DistilBertConfig(**_ENCODER, num_layers=2), change=other_weights)
    return student, teacher


@pytest.fixture(scope="module")
def decoders():
    """A GPT-2 of four layers that teaches one of two."""
    teacher = parity.make_pair(GPT2, GPTConfig(**_SIZES, num_layers=4))
    return parity.make_pair(GPT2, GPTConfig(**_SIZES, num_layers=2), change=other_weights), teacher


def other_weights(model: Any) -> None:
    """Shrinks the weights that `make_pair` drew: the same for both models, they would begin alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)


def batch_of(objective: Any) -> dict[str, Any]:
    """Three rows, of ten real tokens each, padded on either side."""
    rng = np.random.default_rng(1)
    first = np.array([[0], [2], [1]])
    index = np.arange(LENGTH)[None]
    segments = ((index >= first) & (index < first + LENGTH - 2)).astype(np.int32)
    inputs = {
        "tokens": rng.integers(2, VOCABULARY, (3, LENGTH)).astype(np.int32),
        "positions": ((index - first) * segments).astype(np.int32),
        "segment_ids": segments,
    }
    if objective.kind == "decoder":
        targets, weights = rng.integers(0, VOCABULARY, (3, LENGTH)), segments
    else:
        inputs["masked_positions"] = (np.array([[1, 4, 7], [0, 3, 9], [2, 5, 8]]) + first).astype(np.int32)
        targets, weights = rng.integers(0, VOCABULARY, (3, MASKED)), np.ones((3, MASKED))
    return {"inputs": inputs, "targets": targets.astype(np.int32), "weights": weights.astype(np.float32)}


def ours(config, objective, student, teacher, batch):
    """Our mean loss, its metrics, and its gradients by the names in the student's file."""
    distillation = Distillation(config, teacher.config, student.config, objective, Execution())
    model = student.config.build(Execution())

    def loss(params):
        apply = functools.partial(model.apply, {"params": params}, deterministic=True)
        _, (loss_sum, weight, metrics) = distillation(apply, teacher.params, batch)
        return loss_sum / weight, {name: value / weight for name, value in metrics.items()}

    (value, metrics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(student.params)
    return float(value), metrics, dict(student.family.stream(gradients, student.config))


def distiller_step(student: Any, teacher: Any, batch: Any, params: Any) -> torch.Tensor:
    """`Distiller.step` of examples/research_projects/distillation/distiller.py, as it is there."""
    inputs = batch["inputs"]
    input_ids, attention_mask = parity.tensor(inputs["tokens"]), parity.tensor(inputs["segment_ids"])
    labels = np.full((3, LENGTH), IGNORED)
    if "masked_positions" in inputs:
        np.put_along_axis(labels, inputs["masked_positions"], batch["targets"], axis=1)
    else:
        labels = np.where(batch["weights"] > 0, batch["targets"], IGNORED)
    lm_labels = parity.tensor(labels)
    read = {"attention_mask": attention_mask, "output_hidden_states": True, "output_attentions": True}
    read["position_ids"] = parity.tensor(inputs["positions"])
    student_outputs = student(input_ids, **read)
    with torch.no_grad():
        teacher_outputs = teacher(input_ids, **read)
    s_logits, s_hidden_states = student_outputs["logits"], student_outputs["hidden_states"]
    t_logits, t_hidden_states = teacher_outputs["logits"], teacher_outputs["hidden_states"]
    if params.restrict_ce_to_mask:
        mask = (lm_labels > -1).unsqueeze(-1).expand_as(s_logits)
    else:
        mask = (attention_mask > 0).unsqueeze(-1).expand_as(s_logits)
    s_logits_slct = torch.masked_select(s_logits, mask).view(-1, s_logits.size(-1))
    t_logits_slct = torch.masked_select(t_logits, mask).view(-1, s_logits.size(-1))
    loss_ce = (
        nn.KLDivLoss(reduction="batchmean")(
            nn.functional.log_softmax(s_logits_slct / params.temperature, dim=-1),
            nn.functional.softmax(t_logits_slct / params.temperature, dim=-1),
        )
        * (params.temperature) ** 2
    )
    loss = params.alpha_ce * loss_ce
    loss_mlm = nn.CrossEntropyLoss(ignore_index=IGNORED)(s_logits.view(-1, s_logits.size(-1)), lm_labels.view(-1))
    loss = loss + params.alpha_mlm * loss_mlm
    s_hidden, t_hidden = s_hidden_states[-1], t_hidden_states[-1]
    mask = (attention_mask > 0).unsqueeze(-1).expand_as(s_hidden)
    dim = s_hidden.size(-1)
    s_hidden_slct = torch.masked_select(s_hidden, mask).view(-1, dim)
    t_hidden_slct = torch.masked_select(t_hidden, mask).view(-1, dim)
    target = s_hidden_slct.new(s_hidden_slct.size(0)).fill_(1)
    loss_cos = nn.CosineEmbeddingLoss(reduction="mean")(s_hidden_slct, t_hidden_slct, target)
    loss = loss + params.alpha_cos * loss_cos
    return loss + layers_loss(student_outputs, teacher_outputs, attention_mask > 0, params)


def layers_loss(student_outputs: Any, teacher_outputs: Any, real: torch.Tensor, params: Any) -> torch.Tensor:
    """What TinyBERT and MobileBERT compare layer by layer, which `distiller.py` does not."""
    loss = torch.zeros(())
    for number, layer in enumerate(params.layers):
        own, theirs = (
            outputs["hidden_states"][n + 1] for outputs, n in ((student_outputs, number), (teacher_outputs, layer))
        )
        loss = loss + params.alpha_hidden * nn.functional.mse_loss(own[real], theirs[real])
        own, theirs = student_outputs["attentions"][number], teacher_outputs["attentions"][layer]
        # [B, T, H, S] of the real queries; what is not seen has no share in either.
        own, theirs = (each.transpose(1, 2)[real].clamp_min(1e-30) for each in (own, theirs))
        divergence = (theirs * (theirs.log() - own.log())).sum(-1).mean()
        loss = loss + params.alpha_attention * divergence
    return loss


def assert_same(config, objective, pairs, layers=()):
    student, teacher = pairs
    batch = batch_of(objective)
    value, _, gradients = ours(config, objective, student, teacher, batch)
    params = SimpleNamespace(
        temperature=config.temperature, alpha_ce=config.kl, alpha_mlm=config.objective, alpha_cos=config.cosine,
        restrict_ce_to_mask=not config.everywhere, alpha_hidden=config.hidden, alpha_attention=config.attention,
        layers=layers,
    )  # fmt: skip
    student.theirs.zero_grad()
    loss = distiller_step(student.theirs, teacher.theirs, batch, params)
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    want = parity.saved_gradients(student.theirs)
    for name, gradient in want.items():
        np.testing.assert_allclose(gradients[name], gradient, atol=1e-5 * max(1, np.abs(gradient).max()), err_msg=name)
    assert len(want) > 5


RECIPE = TeacherConfig("not read")


@pytest.mark.parametrize(
    "config",
    [RECIPE, dataclasses.replace(RECIPE, everywhere=False, temperature=3.0, kl=0.5, objective=0.25, cosine=2.0)],
    ids=["the recipe", "hidden words alone"],
)
@pytest.mark.parametrize("chunk", [None, 5])
def test_a_distilberts_loss_and_gradients_are_the_distillers(encoders, config, chunk):
    assert_same(config, MaskedLM(chunk=chunk), encoders)


def test_a_decoders_loss_and_gradients_are_the_distillers(decoders):
    assert_same(RECIPE, CausalLM(), decoders)


@pytest.mark.parametrize("layers", [None, (0, 2)])
def test_layers_are_compared_as_tinybert_and_mobilebert_do(encoders, layers):
    config = dataclasses.replace(RECIPE, hidden=3.0, attention=2.0, layers=layers)
    assert_same(config, MaskedLM(), encoders, layers or (1, 3))


def test_a_decoders_attention_is_causal(decoders):
    config = dataclasses.replace(RECIPE, attention=2.0, layers=(3, 0))
    assert_same(config, CausalLM(), decoders, (3, 0))


def test_nothing_is_learnt_from_oneself(decoders):
    """The teacher's own weights: what is left is the objective's loss, and no gradient of anything else."""
    _, teacher = decoders
    config = dataclasses.replace(RECIPE, objective=0.0, hidden=1.0, attention=1.0, layers=(0, 1, 2, 3))
    _, metrics, gradients = ours(config, CausalLM(), teacher, teacher, batch_of(CausalLM()))
    terms = [value for name, value in metrics.items() if name.startswith("teacher_")]
    assert len(terms) == 4
    assert np.abs(terms).max() < 1e-5
    assert max(np.abs(gradient).max() for gradient in gradients.values()) < 1e-5
    assert metrics["nll"] > 1


def test_a_rows_weight_is_spread_over_its_places():
    weights, places = jnp.array([[1.0, 0.5], [0.0, 0.0]]), jnp.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    np.testing.assert_allclose(spread(weights, places), [[0.5, 0.5, 0.5, 0.0], [0.0] * 4])
    np.testing.assert_allclose(spread(weights[:, 0], jnp.zeros((2, 4))), np.zeros((2, 4)))


@pytest.mark.parametrize(("apart", "tolerance"), [(1e-2, 5e-5), (0.3, 3e-6), (20.0, 3e-6)])
def test_a_divergence_is_exact_however_near_the_two_are(apart, tolerance):
    """Against float64: where a student attends as its teacher does, terms of p log(p / q) cancel to a hundredth."""
    rng = np.random.default_rng(0)
    scores, other = rng.normal(size=(2, 64, 16))
    pair = scores, scores + apart * other
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in pair)
    narrow = [jax.nn.log_softmax(jnp.asarray(x, jnp.float32)) for x in pair]
    exact = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    np.testing.assert_allclose(divergences(*narrow).sum(-1), exact, rtol=tolerance)
    of_scores = jax.grad(lambda y: divergences(narrow[0], jax.nn.log_softmax(y)).sum())
    np.testing.assert_allclose(of_scores(jnp.asarray(pair[1], jnp.float32)), np.exp(log_q) - np.exp(log_p), atol=1e-6)
