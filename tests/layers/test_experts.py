"""A mixture of experts equals a loop over its experts, whatever the mesh, and laws of routing hold."""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.exhaustive import few
from tests.tiny_models import TINY
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.layers.experts import Experts, Router
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.routing import choose, router_losses, router_metrics
from transformer.ops.grouped import grouped_dot, grouped_outer
from transformer.parallel.layout import param_shardings
from transformer.parallel.mesh import MeshConfig, make_mesh

B, T, D = 8, 16, 16
CONFIG = ExpertsConfig(num_experts=8, experts_per_token=2, mlp_width=24)
DEEPSEEK = dataclasses.replace(
    CONFIG, scores="sigmoid", scale=2.5, groups=4, groups_per_token=2, selection_bias=True, shared_experts=1
)
LIMITED = dataclasses.replace(CONFIG, capacity_factor=1.0)


def _layer(config, gated=True):
    return Experts(config, "silu", jnp.float32, gated=gated)


def _boxed(config, gated=True):
    return jax.eval_shape(lambda: _layer(config, gated).init(jax.random.key(0), jnp.zeros((1, 1, D))))["params"]


def _world(config, gated=True, seed=0):
    """Random parameters, biases too, tokens, and segments with padding."""
    rng = np.random.default_rng(seed)
    draw = lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, nn.meta.unbox(_boxed(config, gated)))
    x_BTD = rng.normal(size=(B, T, D)).astype(np.float32)
    return params, x_BTD, rng.integers(0, 3, (B, T)).astype(np.int32)


def _by_hand(config, params, x_BTD, segments_BT, gated=True):
    """The mixture in numpy, token by token, as the papers write it: outputs, choices dropped, tokens of each expert."""
    f = lambda z: z / (1 + np.exp(-z))  # noqa: E731
    kernel = {name: params[name]["kernel"] for name in ("gate", "up", "down") if name in params}

    def expert(x_D, e):
        hidden_F = x_D @ kernel["up"][e]
        hidden_F = f(x_D @ kernel["gate"][e]) * hidden_F if gated else f(hidden_F)
        return hidden_F @ kernel["down"][e]

    y_BTD, tokens_E = np.zeros_like(x_BTD), np.zeros(config.num_experts)
    capacity, dropped = config.capacity(x_BTD.shape[1]) or x_BTD.size, 0
    for row in range(x_BTD.shape[0]):
        chosen = {}
        for token in np.flatnonzero(segments_BT[row]):
            logits_E = x_BTD[row, token] @ params["router"]["kernel"]
            if config.scores == "softmax":
                scores_E = np.exp(logits_E - logits_E.max())
                scores_E /= scores_E.sum()
            else:
                scores_E = 1 / (1 + np.exp(-logits_E))
            ranked_E = scores_E + (params["router"]["bias"] if config.selection_bias else 0)
            if config.groups > 1:
                best_G = np.sort(ranked_E.reshape(config.groups, -1))[:, -2:].sum(axis=1)
                kept = np.argsort(-best_G)[: config.groups_per_token]
                outside = ~np.isin(np.arange(config.num_experts) // (config.num_experts // config.groups), kept)
                ranked_E = np.where(outside, -np.inf, ranked_E)
            experts = np.argsort(-ranked_E)[: config.experts_per_token]
            weights = scores_E[experts] / (scores_E[experts].sum() if config.normalize else 1) * config.scale
            chosen[token] = list(zip(experts, weights, strict=True))
        taken = np.zeros(config.num_experts, int)
        for rank in range(config.experts_per_token):
            for token, choices in chosen.items():
                e, weight = choices[rank]
                tokens_E[e] += 1
                if taken[e] == capacity:
                    dropped += 1
                    continue
                taken[e] += 1
                y_BTD[row, token] += weight * expert(x_BTD[row, token], e)
    if config.shared_experts:
        shared = {name: params["shared"][name]["kernel"] for name in params["shared"]}
        y_BTD += (f(x_BTD @ shared["gate"]) * (x_BTD @ shared["up"])) @ shared["down"]
    return y_BTD, dropped, tokens_E


@pytest.mark.parametrize("config", [CONFIG, DEEPSEEK, LIMITED], ids=["mixtral", "deepseek", "limited"])
def test_equals_a_loop_over_tokens(config):
    params, x_BTD, segments_BT = _world(config)
    y_BTD, routers = jax.jit(_layer(config).apply)({"params": params}, x_BTD, segments_BT)
    want_BTD, dropped, tokens_E = _by_hand(config, jax.tree.map(np.float64, params), x_BTD.astype(float), segments_BT)
    np.testing.assert_allclose(y_BTD, want_BTD, atol=2e-5)
    [sums] = routers.values()
    np.testing.assert_array_equal(sums.tokens_E, tokens_E)
    assert (int(sums.dropped), int(sums.weight)) == (dropped, np.count_nonzero(segments_BT))
    assert (dropped > 0) == (config is LIMITED)


IN_FLOAT64 = """
import jax, json, sys
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np
from transformer.ops.grouped import Matrices
from transformer.parallel.experts import dropless
rng = np.random.default_rng(0)
E, D, F = 5, 12, 20
x, weights = rng.normal(size=(3, 40, D)), rng.random((3, 40, 2))
experts = np.argsort(rng.random((3, 40, E)))[..., :2].astype(np.int32)
experts[0, :7] = E
kernels = {name: rng.normal(size=(E, F, D) if name == "down" else (E, D, F)) for name in ("gate", "up", "down")}
def sparse(x, weights, kernels):
    matrices = {name: Matrices(kernel) for name, kernel in kernels.items()}
    return jnp.sin(dropless(x, experts, weights, matrices, jax.nn.silu)).sum()
def dense(x, weights, kernels):
    y = 0.0
    for e in range(E):
        out = (jax.nn.silu(x @ kernels["gate"][e]) * (x @ kernels["up"][e])) @ kernels["down"][e]
        y += out * jnp.where(experts == e, weights, 0).sum(-1)[..., None]
    return jnp.sin(y).sum()
pairs = [jax.tree.leaves(jax.jit(jax.value_and_grad(f, (0, 1, 2)))(x, weights, kernels)) for f in (sparse, dense)]
print(json.dumps([float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(*pairs)]))
"""


def test_equals_a_dense_loop_over_experts_in_float64():
    ran = subprocess.run([sys.executable, "-c", IN_FLOAT64], capture_output=True, text=True, check=True, env=os.environ)
    errors = json.loads(ran.stdout)
    assert len(errors) == 6
    assert max(errors) < 1e-12


MESHES = [
    MeshConfig(data=1, fsdp=2, tensor=2, expert=2),
    MeshConfig(data=2, sequence=2, expert=2),
    MeshConfig(data=1, expert=8),
    MeshConfig(data=2, fsdp=2, expert=2),
    MeshConfig(data=1, fsdp=4, pipeline=2),
    MeshConfig(data=1, expert=4, tensor=2),
]
# Each mesh with one kind of routing, and each kind with several meshes.
CASES = [(config, mesh) for config, mesh in zip(2 * (CONFIG, LIMITED, DEEPSEEK), MESHES, strict=True)]
CASES += [(DEEPSEEK, MESHES[0]), (LIMITED, MESHES[5])]


def _loss(params, x_BTD, segments_BT, *, config):
    output: Any = _layer(config).apply({"params": params}, x_BTD, segments_BT)
    y_BTD, routers = output
    balance, z = router_losses(routers, routers)
    return (y_BTD * jnp.cos(y_BTD)).mean() + balance + z, (y_BTD, routers)


@pytest.mark.parametrize(("config", "mesh"), few(CASES, CASES[0], (LIMITED, MESHES[1])), ids=str)
def test_any_mesh_gives_the_one_device_gradients(config, mesh):
    params, *batch = _world(config)
    step = jax.jit(jax.value_and_grad(_loss, argnums=(0, 1), has_aux=True), static_argnames="config")
    want = jax.tree.map(np.asarray, step(params, *batch, config=config))
    devices = make_mesh(mesh)
    with jax.set_mesh(devices):
        placed = jax.device_put(params, param_shardings(_boxed(config), devices))
        have = jax.device_get(step(placed, *batch, config=config))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), have, want)


def test_a_row_that_the_mesh_does_not_divide_is_computed_too():
    """As in decoding: one row of one token."""
    params, x_BTD, _ = _world(CONFIG)
    apply = jax.jit(lambda params, x: _layer(CONFIG).apply({"params": params}, x)[0])
    want = np.asarray(apply(params, x_BTD[:1, :1]))
    with jax.set_mesh(make_mesh(MeshConfig(data=2, expert=4))):
        np.testing.assert_allclose(apply(params, x_BTD[:1, :1]), want, atol=1e-6)


def test_no_gathers_but_of_tokens_and_kernels():
    """The router's choice stays where its tokens are: compiled for a mesh, nothing is gathered of the global batch."""
    params, x_BTD, segments_BT = _world(CONFIG)
    mesh = make_mesh(MeshConfig(data=8))
    with jax.set_mesh(mesh):
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        placed = jax.device_put((x_BTD, segments_BT), rows)
        text = jax.jit(_layer(CONFIG).apply).lower({"params": params}, *placed).compile().as_text() or ""
    assert "all-gather" not in text
    assert "all-to-all" not in text


@given(sizes=st.lists(st.integers(0, 150), min_size=1, max_size=4), rest=st.integers(0, 3))
def test_blocks_are_grouped_products(sizes, rest):
    rng = np.random.default_rng(len(sizes))
    x_RD = rng.normal(size=(450, 3)).astype(np.float32)[: max(sum(sizes) + rest, 1)]
    sizes = np.array([*sizes, *[0] * (4 - len(sizes))], np.int32)
    kernel_EDF = rng.normal(size=(4, 3, 2)).astype(np.float32)
    y_RF, outer_EDF = _grouped(x_RD, kernel_EDF, sizes)
    start = 0
    for group, size in enumerate(sizes):
        rows = slice(start, start + size)
        np.testing.assert_allclose(y_RF[rows], x_RD[rows] @ kernel_EDF[group], atol=1e-5)
        np.testing.assert_allclose(outer_EDF[group], x_RD[rows].T @ x_RD[rows], atol=1e-3)
        start += size
    assert not y_RF[start:].any()


def _grouped(x_RD, kernel_EDF, sizes):
    """Both products, of rows padded to one shape, so that they are compiled once."""
    padded = np.pad(x_RD, ((0, 604 - len(x_RD)), (0, 0)))
    dot, outer = jax.device_get(_BOTH(padded, kernel_EDF, sizes))
    return dot[: len(x_RD)], outer


_BOTH = jax.jit(lambda x, kernel, sizes: (grouped_dot(x, kernel, sizes), grouped_outer(x, x, sizes)))
_CHOOSE = jax.jit(choose, static_argnums=0)


@given(seed=st.integers(0, 2**16))
def test_laws_of_choice(seed):
    """Weights sum to the scale; padding goes nowhere; shares and counts add up; experts may change places."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 9, 8)).astype(np.float32)
    real = rng.random((2, 9)) < 0.8
    config = dataclasses.replace(CONFIG, scale=1.5)
    choice, sums = jax.device_get(_CHOOSE(config, logits, None, real))
    np.testing.assert_allclose(choice.weights_BTK.sum(-1), 1.5 * real, rtol=1e-5)
    assert (choice.experts_BTK == 8).all(-1).tolist() == (~real).tolist()
    assert sums.tokens_E.sum() == 2 * real.sum()
    np.testing.assert_allclose(sums.scores_E.sum(), real.sum(), rtol=1e-5)
    order = rng.permutation(8)
    moved, moved_sums = jax.device_get(_CHOOSE(config, logits[..., order], None, real))
    back = np.append(order, 8)[moved.experts_BTK]
    np.testing.assert_array_equal(back, choice.experts_BTK)
    np.testing.assert_allclose(moved.weights_BTK, choice.weights_BTK, rtol=1e-5)
    np.testing.assert_array_equal(moved_sums.tokens_E, sums.tokens_E[order])


def test_routers_multiply_in_float32_on_every_backend():
    """By default TPUs multiply float32 in bfloat16, and GPUs in TF32; backward as forward."""
    router = Router(CONFIG, nn.initializers.normal(0.02))
    x_BTD = jnp.zeros((1, 3, D), jnp.bfloat16)
    kernel_DE = jnp.zeros((D, CONFIG.num_experts))

    def total(kernel_DE, x_BTD):
        return router.apply({"params": {"kernel": kernel_DE}}, x_BTD)[0].sum()

    jaxpr = jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(kernel_DE, x_BTD)
    products = [equation.params["precision"] for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    assert len(products) == 3
    assert set(products) == {(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)}


def test_the_balance_loss_is_transformers():
    torch = pytest.importorskip("torch")
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 9, 8)).astype(np.float32)
    mask = (rng.random((2, 9)) < 0.7).astype(np.int64)
    for real in (None, mask):
        _, sums = choose(CONFIG, jnp.asarray(logits), None, None if real is None else jnp.asarray(real.astype(bool)))
        theirs = load_balancing_loss_func(
            (torch.tensor(logits.reshape(-1, 8)),), 8, 2, None if real is None else torch.tensor(real)
        )
        balance, _ = router_losses({"": sums}, {"": sums})
        assert float(balance) == pytest.approx(float(theirs), rel=1e-5)


def test_metrics_of_an_even_and_of_one_sided_routing():
    even = np.tile(1e-3 * np.eye(8, dtype=np.float32), (2, 1, 1))  # eight tokens that differ in their first choice
    one = np.full((2, 9, 8), -30, np.float32)
    one[..., :2] = 30
    _, sums = choose(CONFIG, jnp.asarray(one), None, None)
    metrics = router_metrics({"": sums})
    assert float(metrics["expert_max_load"]) == pytest.approx(4)
    assert float(metrics["router_balance_loss"]) == pytest.approx(8)
    assert float(metrics["router_entropy"]) == pytest.approx(np.log(2), rel=1e-5)
    assert float(metrics["expert_dropped"]) == 0
    assert float(router_metrics({"": choose(CONFIG, jnp.asarray(even), None, None)[1]})["router_entropy"]) > 2.07


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experts_per_token": 9}, "experts_per_token is 9: a token can reach 8"),
        ({"groups": 3}, "groups 3 does not divide num_experts 8"),
        ({"groups": 2, "groups_per_token": 3}, "groups_per_token 3 is more than groups 2"),
        ({"capacity_factor": 0.0}, "capacity_factor is 0.0"),
        ({"balance_loss": -1.0}, "balance_loss is -1.0"),
    ],
)
def test_bad_experts_are_refused_in_a_line(change, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize("family", ["bert", "roberta", "spanbert"])
def test_encoders_hand_back_what_their_routers_sum_up(family):
    config = dataclasses.replace(TINY[family], experts=TINY["olmoe"].experts)
    params, tokens = nn.meta.unbox(config.abstract_params()), jnp.zeros((2, 16), jnp.int32)
    output = jax.eval_shape(lambda params: config.build(Execution()).apply({"params": params}, tokens), params)
    assert list(output.routers) == ["backbone/stack/layers/mlp"]
