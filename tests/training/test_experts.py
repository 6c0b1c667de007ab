"""Training with experts: the routers' losses, metrics and biases are of global sums, whatever the mesh and parts."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.families import of_architecture
from transformer.layers.execution import Execution
from transformer.layers.experts_config import ExpertsConfig
from transformer.models import architecture_from_dict, architecture_to_dict
from transformer.models.bert import BertConfig
from transformer.models.llama import LlamaConfig
from transformer.models.resizing import scaled
from transformer.models.t5 import T5Config
from transformer.objectives.causal_lm import CausalLM
from transformer.objectives.masked_lm import MaskedLM
from transformer.objectives.span_corruption import SpanCorruption
from transformer.parallel.layout import BatchLayout
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training.evaluation import evaluate
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.program import Program

EXPERTS = ExpertsConfig(
    num_experts=4, experts_per_token=2, mlp_width=8, balance_loss=0.1, z_loss=0.01, selection_bias=True, bias_rate=0.01
)
LIMITED = dataclasses.replace(EXPERTS, capacity_factor=0.8)
SIZES: dict[str, Any] = {"vocab_size": 32, "context_length": 16, "width": 16, "num_heads": 4}
MODELS = {
    "decoder": LlamaConfig(**SIZES, num_layers=2, num_kv_heads=2, head_width=4, mlp_width=8, experts=EXPERTS),
    "encoder": BertConfig(**SIZES, num_layers=2, mlp_width=8, dropout=0.0, attention_dropout=0.0, experts=LIMITED),
    "encoder_decoder": T5Config(
        vocab_size=32, width=16, num_encoder_layers=1, num_decoder_layers=2, num_heads=4, head_width=4, mlp_width=8,
        gated=True, dropout=0.0, experts=dataclasses.replace(EXPERTS, shared_experts=1),
    ),
}  # fmt: skip
OBJECTIVES = {"decoder": CausalLM(), "encoder": MaskedLM(), "encoder_decoder": SpanCorruption()}


def _experiment(kind, *, accumulation=1):
    return Experiment(
        name="tiny",
        model=MODELS[kind],
        objective=OBJECTIVES[kind],
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1, weight_decay=0.5),
        train=TrainConfig(steps=3, batch_size=8, seq_len=16, accumulation=accumulation),
    )


def _batch(kind, seed=0):
    """Eight rows of packed documents and padding, as uneven as can be between microbatches."""
    rng = np.random.default_rng(seed)
    segments = np.array([[1] * 9 + [2] * 4 + [0] * 3, [1] * 16, [0] * 16, [1] * 2 + [0] * 14] * 2, np.int32)
    rows = {
        "tokens": rng.integers(0, 32, (8, 16)).astype(np.int32),
        "positions": np.tile(np.arange(16, dtype=np.int32), (8, 1)),
        "segment_ids": segments,
    }
    places = slice(None)
    if kind == "encoder_decoder":
        rows |= {f"decoder_{name}": value[:, :12].copy() for name, value in rows.items()}
        places = slice(12)
    if kind == "encoder":
        rows["masked_positions"], places = np.tile(np.arange(4, dtype=np.int32), (8, 1)), slice(4)
    weights = (segments[:, places] > 0).astype(np.float32)
    return {"inputs": rows, "targets": rng.integers(0, 32, weights.shape).astype(np.int32), "weights": weights}


def _train(kind, mesh, accumulation=1, steps=3):
    """Returns each step's metrics, the last state, and an evaluation of it."""
    devices = make_mesh(mesh)
    with jax.set_mesh(devices):
        program = Program(_experiment(kind, accumulation=accumulation), devices)
        layout, state, rows = BatchLayout(devices, 8), program.init(), []
        for step in range(steps):
            state, metrics = program.step(state, layout.place(_batch(kind, step)))
            rows.append(jax.device_get(metrics))
        evaluation, _ = evaluate(program.evaluate, state.params, [layout.place(_batch(kind, 9))] * 2)
    return rows, jax.device_get(state), evaluation.row()


@pytest.fixture(scope="module")
def alone():
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = _train(kind, MeshConfig(data=1))
        return made[kind]

    return get


CASES = [
    ("decoder", MeshConfig(data=1), 4),
    ("decoder", MeshConfig(data=1, fsdp=2, expert=2, tensor=2), 2),
    ("encoder", MeshConfig(data=2, expert=2, sequence=2), 1),
    ("encoder_decoder", MeshConfig(data=1, expert=4, fsdp=2), 1),
    ("encoder", MeshConfig(data=1), 8),
    ("decoder", MeshConfig(data=2, pipeline=2, expert=2), 2),
]


@pytest.mark.parametrize(("kind", "mesh", "accumulation"), few(CASES), ids=str)
def test_meshes_and_microbatches_change_nothing(alone, kind, mesh, accumulation):
    (rows, state, evaluation), (want_rows, want, want_evaluation) = _train(kind, mesh, accumulation), alone(kind)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, rows, want_rows)
    jax.tree.map(close, evaluation, want_evaluation)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state.params, want.params)


def test_losses_join_the_loss_and_metrics_are_logged(alone):
    row, evaluation = alone("decoder")[0][0], alone("decoder")[2]
    added = 0.1 * row["router_balance_loss"] + 0.01 * row["router_z_loss"]
    assert row["loss"] == pytest.approx(row["nll"] + added, rel=1e-6)
    assert row["router_balance_loss"] > 1.9  # K where balanced
    assert 0 < row["router_entropy"] <= np.log(4)
    assert 1 <= row["expert_max_load"] <= 2
    assert row["expert_dropped"] == 0 < alone("encoder")[0][0]["expert_dropped"]
    assert {"eval_router_entropy", "eval_expert_max_load"} <= evaluation.keys()


def test_biases_follow_the_load_alone(alone):
    """Each step moves a bias by the rate, up, down or not at all: no gradient, no decay, no moments."""
    _, state, _ = alone("decoder")
    mlp = "backbone", "stack", "layers", "mlp", "router", "bias"
    bias_NE = state.params
    for name in mlp:
        bias_NE = bias_NE[name]
    steps = np.asarray(bias_NE) / 0.01
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
    assert np.abs(steps).max() == pytest.approx(1)  # where a step overshot the next one came back
    moments = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
               if jax.tree_util.keystr(path, simple=True, separator="/").endswith("router/bias")]  # fmt: skip
    assert moments
    assert not any(np.any(moment) for moment in moments)


@pytest.mark.exhaustive
def test_a_skipped_step_leaves_the_biases():
    devices = make_mesh(MeshConfig(data=1))
    with jax.set_mesh(devices):
        program = Program(_experiment("decoder"), devices)
        state, layout = program.init(), BatchLayout(devices, 8)
        params = jax.tree.map(np.array, state.params)
        bad = _batch("decoder")
        bad["weights"][0, 0] = np.nan
        after, metrics = program.step(state, layout.place(bad))
    assert int(metrics["skipped"]) == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.params), params)


@pytest.mark.parametrize("kind", ["encoder", "encoder_decoder"])
def test_experts_that_transformers_has_not_are_not_exported(kind):
    with pytest.raises(UserError, match="it cannot be exported"):
        of_architecture(MODELS[kind])


def test_experts_are_counted_and_resized():
    """2 of 4 experts are met; at twice the width an expert is twice as wide, and there are as many."""
    model = MODELS["decoder"]
    expert = 3 * 16 * 8
    assert model.num_params() - model.active_params() == 2 * 2 * expert
    dense = dataclasses.replace(model, experts=None, mlp_width=16)  # as wide as two experts
    router = 6 * 16 * 4 * 2 * 16
    assert model.flops_per_example(16) == dense.flops_per_example(16) + router
    twice = scaled(model, 32).experts
    assert twice == dataclasses.replace(EXPERTS, mlp_width=16)
    assert architecture_from_dict(json.loads(json.dumps(architecture_to_dict(model)))) == model


def test_decoding_with_a_cache_is_the_whole_pass():
    model = MODELS["decoder"]
    module = model.build(Execution())
    tokens = jnp.asarray(_batch("decoder")["inputs"]["tokens"][:2, :8])
    positions = jnp.tile(jnp.arange(8, dtype=jnp.int32)[None], (2, 1))
    params = jax.jit(module.init)(jax.random.key(0), tokens)
    whole = jax.jit(lambda p, t: module.apply(p, t).logits)(params, tokens)

    @jax.jit
    def step(params, cache, tokens, positions):
        output = module.apply(params, tokens, positions, cache=cache)
        return output.logits, output.cache

    cache, out = module.init_cache(2, 8), []
    for at in range(8):
        logits, cache = step(params, cache, tokens[:, at : at + 1], positions[:, at : at + 1])
        out.append(logits)
    np.testing.assert_allclose(jnp.concatenate(out, axis=1), whole, atol=1e-5)
