"""A strict set-up: eight fake CPU devices, no silent rank or dtype promotion; pyproject.toml makes warnings errors."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# NumPy's BLAS threads only wait for each other over small matrices: with two, fits of laws take twice the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiling is most of what the tests do: every run of the loop, and every worker, takes what another compiled.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# LLVM's dear passes make tiny models no faster and take half of the suite's time; XLA's own passes all run.
jax.config.update("jax_disable_most_optimizations", True)


# The same examples every time (a failure in CI can be repeated), and no deadline: the first example compiles.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session")
def mesh_2x2x2():
    from transformer.sharding import MeshConfig, make_mesh

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
