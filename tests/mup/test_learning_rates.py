"""Runs whose learning rate is a traced number are the runs of that learning rate; and the best one is a parabola's."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.tiny_models import TINY
from transformer.mup.learning_rates import best, losses, shift
from transformer.mup.parametrization import MupConfig
from transformer.parallel.mesh import MeshConfig
from transformer.training.evaluation import evaluate
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.session import Session


@pytest.mark.exhaustive
@pytest.mark.parametrize("mup", [MupConfig(), MupConfig(8)])
def test_a_traced_rate_is_the_rate(mup):
    rng = np.random.default_rng(0)
    batches = [
        {"inputs": {"tokens": t[:, :-1]}, "targets": t[:, 1:], "weights": np.ones((2, 8), np.float32)}
        for t in rng.integers(0, 32, (4, 2, 9), dtype=np.int32)
    ]
    experiment = Experiment(
        name="tiny",
        model=dataclasses.replace(TINY["gpt"], band=None),
        optimizer=OptimizerConfig(learning_rate=0.03, warmup_steps=1, schedule="linear", weight_decay=0.5),
        train=TrainConfig(steps=3, batch_size=2, seq_len=8),
        mesh=MeshConfig(data=1),
        mup=mup,
    )
    session = Session(experiment)
    found = losses(session, [0.03, 1e9], batches[:3], batches[3:])
    assert found[1e9] == float("inf") or found[1e9] > 10
    program = session.program
    with jax.set_mesh(session.mesh):
        state = program.init()
        for batch in batches[:3]:
            state, _ = program.step(state, batch)
        expected = evaluate(program.evaluate, state.params, batches[3:])[0].loss
    assert found[0.03] == pytest.approx(expected, rel=1e-5)


def test_the_best_rate_is_a_parabolas_vertex():
    rates = [2.0**k for k in range(-8, 0)]
    assert best({rate: (np.log2(rate) + 4.3) ** 2 + 2 for rate in rates}) == pytest.approx(2**-4.3)
    assert best({rate: np.log2(rate) for rate in rates}) is None  # lower still beyond the edge
    assert best({0.25: 3.0, 0.5: 2.0, 1.0: float("inf")}) == 0.5


def test_the_shift_is_a_slope_of_logarithms():
    assert shift({32: 0.1, 64: 0.05, 128: 0.025}) == pytest.approx(-1)
    assert shift({32: 0.1, 64: 0.1, 256: 0.1}) == pytest.approx(0)
