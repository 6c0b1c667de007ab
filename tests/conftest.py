"""A strict set-up: eight fake CPU devices, no silent rank or dtype promotion; pyproject.toml makes warnings errors."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

# In the environment, so that the processes that tests start have it too.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    # Compiling is most of what the tests do: every run of the loop, worker and process takes what another compiled.
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parent.parent / ".pytest_cache" / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    # LLVM's dear passes make tiny models no faster and take half of the suite's time; XLA's own passes all run.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    # The older of XLA's two ways to make code of a fusion takes a third of the time to compile it.
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip(),
}
# Threads of NumPy's BLAS and of PyTorch only wait for each other over small matrices: with two, fits of laws take twice
# the time, and beside another process a backward pass of a tiny model takes a second.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a shell starts in its background ignores SIGINT, and so does all that it starts: no test could send one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import copy
import gc
import json
import random
import time
from collections import OrderedDict

import hypothesis
import jax
import pytest

if TYPE_CHECKING:
    from transformer.training.experiment import Experiment

DEADLINE = int(os.environ["TEST_DEADLINE"]) if "TEST_DEADLINE" in os.environ else None
"""The Unix time after which no exhaustive test begins: CI ends what takes longer than it allows. None: never."""

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# The same examples every time (a failure in CI can be repeated), and no deadline: the first example compiles.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("project")


def pytest_collection_modifyitems(items):
    """Where time may end before the tests do, other files come last each time."""
    if DEADLINE is not None:
        files = sorted({item.nodeid.partition("::")[0] for item in items})
        random.Random(DEADLINE).shuffle(files)
        place = {file: number for number, file in enumerate(files)}
        items.sort(key=lambda item: place[item.nodeid.partition("::")[0]])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if DEADLINE is not None and time.time() > DEADLINE and item.get_closest_marker("exhaustive"):
        pytest.skip("the machine is slow: TEST_DEADLINE has passed, and no exhaustive test begins after it")


def pytest_collection_finish(session):
    """What all the imports made stays to the end: the collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def shared_programs():
    """Sessions of one experiment on one mesh share what is traced and compiled, as starts of a run do on disk.

    A program depends on nothing in an experiment but what makes the model, the loss and the update.
    """
    from transformer.training import experiment as experiments
    from transformer.training import session

    make, made = session.Program, OrderedDict()

    def shared(experiment, mesh, *architecture):
        record = experiments.to_dict(experiment)
        record["mesh"] = record["mesh"]["zero1"]
        for name in ("name", "data", "checkpoint", "cluster"):
            del record[name]
        for name in ("eval_every", "eval_batches", "log_every", "skip_samples", "max_skipped"):
            del record["train"][name]
        key = mesh, architecture, json.dumps(record, sort_keys=True)
        program = made.pop(key, None) or make(experiment, mesh, *architecture)
        made[key] = program
        if len(made) > 16:
            made.popitem(last=False)
        return copy.copy(program)  # which keeps a step of its own that it compiled ahead

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Program", shared)
        yield made


MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="module", autouse=True)
def few_programs(shared_programs):
    """Compiled programs are let go of between files: the code of each has memory maps of its own, of which Linux gives
    a process 65,530. Beyond these the next one is a segmentation fault, which half of `test-all` was near to.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 16_000:
        shared_programs.clear()
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def mesh_2x2x2():
    from transformer.parallel.mesh import MeshConfig, make_mesh

    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The local folder behind gs://bucket."""
    from tests.training import fake_gcs

    root = tmp_path_factory.mktemp("store")
    server = fake_gcs.serve(root)
    (root / "bucket").mkdir()
    yield root / "bucket"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> "Experiment":
    """A tiny experiment on a tiny text, which whole runs are made of."""
    from tools.crash import write_corpus
    from transformer.checkpoint import CheckpointConfig
    from transformer.data.text.config import TextConfig
    from transformer.models.gpt import GPTConfig
    from transformer.parallel.mesh import MeshConfig
    from transformer.training.experiment import Experiment, TrainConfig
    from transformer.training.optimizer import OptimizerConfig

    folder = tmp_path_factory.mktemp("text") / "corpus"
    write_corpus(folder)
    return Experiment(
        name="tiny",
        model=GPTConfig(vocab_size=384, context_length=64, width=16, num_layers=2, num_heads=2, dropout=0.1),
        data=TextConfig(
            path=str(folder),
            tokenizer="bytes",
            validation_fraction=0.2,
            cache_dir=str(tmp_path_factory.mktemp("cache")),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        train=TrainConfig(steps=12, batch_size=8, seq_len=32, eval_every=4, eval_batches=2, log_every=1),
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every=4),
    )
