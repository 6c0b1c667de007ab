"""A wrong name is an error that names the choices."""

import jax
import pytest

from transformer.errors import UserError
from transformer.layers.execution import OVERLAP, Execution


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dtype", "float8", "unknown dtype 'float8'; choose from: float32, bfloat16, float16"),
        ("attention", "flash", "unknown attention 'flash'; choose from: auto, reference, xla, cudnn"),
        (
            "remat",
            "everything",
            "unknown remat 'everything'; choose from: auto, none, full, ",
        ),
        ("unroll", -1, "unroll is -1"),
        ("microbatches", 0, "microbatches is 0"),
    ],
)
def test_wrong_names_are_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        Execution(**{field: value})


def test_only_a_gpus_program_needs_to_be_told_to_be_deterministic():
    """Whether XLA knows the option is seen in the compilation: an unknown one raises."""
    exact = Execution(deterministic=True)
    assert exact.compiler_options("gpu") == {"xla_gpu_deterministic_ops": True}
    assert exact.compiler_options("cpu") == exact.compiler_options("tpu") == Execution().compiler_options("gpu") == {}
    jax.jit(lambda x: x + 1, compiler_options=exact.compiler_options("gpu"))(1.0)


def test_overlap_is_told_to_a_gpus_compiler_alone():
    overlapping = Execution(overlap=True)
    assert overlapping.compiler_options("gpu") == OVERLAP
    assert overlapping.compiler_options("cpu") == overlapping.compiler_options("tpu") == {}
    both = Execution(overlap=True, deterministic=True).compiler_options("gpu")
    assert both == OVERLAP | {"xla_gpu_deterministic_ops": True}
    jax.jit(lambda x: x + 1, compiler_options=both)(1.0)  # an option that XLA does not know raises
