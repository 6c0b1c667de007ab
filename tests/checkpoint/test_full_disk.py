"""Saves that the kernel itself lets fail: a limit on the size of files is met as a full disk is, by every writer."""

import json

import pytest

from tests import processes
from transformer.checkpoint import verify

# The limits are met at every place of a save: by the first file of all, by small ones, by the arrays, by the seal.
LIMITS = (0, 40, 150, 400, 1000, 1500, 2500, 20_000)

PROGRAM = """
    import asyncio, json, os, resource, threading, time
    import jax.numpy as jnp, numpy as np
    from transformer.checkpoint import CheckpointConfig, Checkpoints

    FOLDER = {folder!r}
    noise = np.random.default_rng(0).normal(size=(2, 30, 3000)).astype(np.float32)
    params = {{f"w{{n}}": jnp.asarray(x) for n, x in enumerate(noise[0])}}
    opt_state = {{f"m{{n}}": jnp.asarray(x) for n, x in enumerate(noise[1])}}
    record = {{"architecture.json": b"{{}}", "tokenizer/tokenizer.json": b"x" * 300}}

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def abandon():
        # As one write of many that fail at once, by the luck of threads, whose outcome nobody asks for.
        asyncio.new_event_loop().create_future().set_exception(OSError("File too large"))

    def save(step):
        store.save(step, params=params, opt_state=opt_state, data={{"step": step}}, record=record)
        return store.outcome(wait=True)

    with Checkpoints(FOLDER, CheckpointConfig(keep=1, keep_best=0)) as store:
        assert save(1).failure is None
        step = 1
        for turn in range({turns}):
            for size in {limits}:
                step += 1
                limit(size)
                saved = save(step)
                abandon()
                limit(resource.RLIM_INFINITY)
                print(json.dumps([saved.failure, sorted(os.listdir(FOLDER))]), flush=True)
        assert save(step).failure is None  # the same step again
        print(json.dumps([store.steps, sorted(os.listdir(FOLDER))]))
"""


def check(folder, limits, turns):
    [ended] = processes.run_program(PROGRAM.format(folder=str(folder), limits=limits, turns=turns), 1, timeout=400)
    assert ended.code == 0, ended.err
    *rows, last = map(json.loads, ended.out.splitlines())
    assert len(rows) == turns * len(limits)
    for failure, left in rows:
        assert "File too large" in failure
        assert "\n" not in failure
        assert left == ["1"]
    step = 1 + len(rows)
    assert last == [[step], [str(step)]]
    assert verify(folder / str(step)) == []
    assert "Traceback" not in ended.err
    assert "Error" not in ended.err


@pytest.mark.exhaustive
def test_a_save_that_fails_leaves_nothing_and_raises_nothing(tmp_path):
    check(tmp_path, LIMITS, turns=1)


@pytest.mark.exhaustive
def test_twenty_saves_fail_in_a_row(tmp_path):
    """By the first file of all, the arrays and the seal."""
    check(tmp_path, (0, 1000, 20_000), turns=7)
