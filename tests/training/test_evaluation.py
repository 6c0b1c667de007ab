"""Evaluation and throughput are arithmetic: check it by hand."""

import math

import jax
import jax.numpy as jnp
import pytest

from tests.tiny_models import TINY
from transformer.models import conventions
from transformer.training import throughput
from transformer.training.evaluation import evaluate
from transformer.training.program import Evaluated, Sums
from transformer.training.throughput import Throughput, peak_flops


def test_sums_are_divided_once():
    """Two batches of unequal weight: the mean of their means would be wrong."""
    batches = [Sums(1.0, {"nll": 2.0, "accuracy": 1.0}, {}), Sums(7.0, {"nll": 30.0, "accuracy": 1.0}, {})]
    found, predictions = evaluate(lambda params, batch: Evaluated(jax.tree.map(jnp.float32, batch), {}), None, batches)
    assert not predictions
    found = found.of_tokens(targets_per_byte=0.25)
    assert found.loss == pytest.approx(32 / 8)
    assert found.metrics == {"accuracy": pytest.approx(2 / 8)}
    assert found.targets == 8
    assert found.perplexity == pytest.approx(math.exp(4))
    # 4 nats a token, a quarter of a token a byte: 1 nat a byte.
    assert found.bits_per_byte == pytest.approx(1 / math.log(2))


@pytest.mark.parametrize("predicts", [False, True])
def test_one_batch_is_dispatched_ahead_and_no_more(predicts):
    """With many programs in flight, processes of several CPU devices each hang in their collectives."""
    dispatched, unfinished = [], []

    @jax.jit
    def slow(number):
        square = jnp.full((400, 400), number)
        return Sums(number, {"nll": jax.lax.fori_loop(0, 10, lambda _, x: jnp.tanh(x @ x), square).sum()}, {})

    def step(_, batch):
        unfinished.append(sum(not sums.weight.is_ready() for sums in dispatched))
        dispatched.append(slow(batch))
        return Evaluated(dispatched[-1], {"weight": dispatched[-1].weight[None]} if predicts else {})

    _, predictions = evaluate(step, None, [jnp.float32(1)] * 12)
    assert max(unfinished) == 1
    assert {name: values.tolist() for name, values in predictions.items()} == ({"weight": [1] * 12} if predicts else {})


def test_throughput_leaves_out_what_is_not_stepping(monkeypatch):
    now = 0.0
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now)
    clock = Throughput(tokens_per_step=100, flops_per_token=10.0, peak=2000.0)
    clock.step_done()  # the first: compilation
    assert clock.report() == {}
    now = 1.0
    clock.step_done()
    now = 3.0
    clock.step_done()
    clock.pause()  # an evaluation
    now = 50.0
    clock.step_done()
    now = 53.0
    clock.step_done()
    report = clock.report()
    assert report["step_seconds"] == pytest.approx((1 + 2 + 3) / 3)
    assert report["tokens_per_second"] == pytest.approx(50)
    assert report["mfu"] == pytest.approx(50 * 10 / 2000)


@pytest.mark.parametrize("name", ["llama", "spanbert", "bart"])
def test_utilisation_counts_by_the_convention_that_it_names(name):
    lengths = (12, 7 if name == "bart" else 0)
    named = conventions.flops_per_token(throughput.MFU_CONVENTION, TINY[name], *lengths)
    assert TINY[name].flops_per_token(*lengths) == named


class Chip:
    def __init__(self, kind):
        self.device_kind, self.platform = kind, "gpu"


def test_peaks_of_common_chips():
    assert peak_flops([Chip("NVIDIA H100 80GB HBM3")] * 8)[0] == 8 * 989e12
    assert peak_flops([Chip("TPU v5 lite")])[0] == 197e12
    assert peak_flops([Chip("TPU v5")])[0] == 459e12
    assert peak_flops([Chip("NVIDIA L40S")])[0] == 362e12
    assert peak_flops([Chip("Voodoo 3")])[0] is None


def test_a_cpus_peak_is_measured():
    peak, source = peak_flops(jax.devices())
    assert peak is not None
    assert peak > 1e8
    assert "measured" in source
