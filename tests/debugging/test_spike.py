"""Which steps are spikes: what is not finite, and what a robust bound of the losses before calls unusual."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from transformer.debugging.spike import LEAST, WINDOW, SpikeDetector


def judged(losses, grad_norms=None):
    detector = SpikeDetector()
    norms = [1.0] * len(losses) if grad_norms is None else grad_norms
    found = [detector.check(step, *pair) for step, pair in enumerate(zip(losses, norms, strict=True), start=1)]
    return [spike for spike in found if spike is not None]


def usual(count, seed=0):
    return (3.0 + 0.1 * np.random.default_rng(seed).normal(size=count)).tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_spike_from_the_first_step_on(value):
    [spike] = judged([3.0, value, 3.0])
    assert (spike.step, spike.kind, spike.bound) == (2, "loss not finite", None)
    [spike] = judged([3.0, 3.0], [value, 1.0])
    assert (spike.step, spike.kind) == (1, "gradient not finite")


def test_several_in_a_row_are_one_and_a_later_one_is_another():
    assert [spike.step for spike in judged([3, math.nan, math.inf, 3, 3, math.nan])] == [2, 6]
    losses = usual(60)
    losses[40:44] = [9.0, 8.0, math.nan, 7.0]
    losses[50] = 9.0
    assert [spike.step for spike in judged(losses)] == [41, 51]


@given(st.integers(LEAST, 3 * WINDOW), st.integers(0, 20))
def test_the_bound_is_scipys_robust_deviation_above_the_median(count, seed):
    losses = usual(count, seed)
    before = losses[-WINDOW:]
    bound = np.median(before) + 6 * median_abs_deviation(before, scale="normal")
    assert judged([*losses, bound - 1e-3]) == []
    [spike] = judged([*losses, bound + 1e-3])
    assert (spike.step, spike.kind) == (count + 1, "loss spike")
    assert spike.bound == pytest.approx(bound, abs=1e-5)


def test_what_is_not_finite_moves_no_bound():
    losses = usual(60)
    broken = [*losses[:20], *[math.inf] * 50, math.nan, *losses[20:], 9.0]
    [first, last] = judged(broken)
    [plain] = judged([*losses, 9.0])
    assert (first.kind, last.kind, last.bound) == ("loss not finite", "loss spike", plain.bound)


def test_too_few_losses_say_nothing():
    assert judged([*usual(LEAST - 1), 99.0]) == []
    assert len(judged([*usual(LEAST), 99.0])) == 1


@given(st.integers(0, 1000))
def test_noise_and_a_falling_loss_are_no_spikes(seed):
    rng = np.random.default_rng(seed)
    steps = np.arange(400)
    assert judged((2 + 8 * np.exp(-steps / 50) + 0.05 * rng.normal(size=400)).tolist()) == []


def test_losses_that_hardly_differ_make_no_spike_of_a_small_rise():
    assert judged([*[2.0] * 100, 2.1]) == []
    assert len(judged([*[2.0] * 100, 2.13])) == 1


def test_outliers_move_no_bound_but_a_level_that_stays_is_usual_in_the_end():
    losses = usual(WINDOW)
    losses[10::4] = [99.0] * len(losses[10::4])
    assert judged([*losses, 5.0])[-1].step == WINDOW + 1
    stays = judged([*usual(WINDOW), *(4 + value for value in usual(WINDOW, 1)), 12.0])
    assert [spike.step for spike in stays] == [WINDOW + 1, 2 * WINDOW + 1]
