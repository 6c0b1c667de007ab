"""cuDNN's kernels in a step compiled for H100s: how often they are called, and what they read."""

import re
import sys
from pathlib import Path

import pytest

from tests.planning.ahead import WHEELS, Step, compiled

CUDNN = any((Path(folder) / "nvidia" / "cudnn" / "lib").is_dir() for folder in (WHEELS, *sys.path))
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(not CUDNN, reason="pip install -c constraints.txt --no-deps nvidia-cudnn-cu13 (900 MB)"),
]

LENGTH = 768


def llama(*flags: str) -> Step:
    """Four layers, whose widths are no number of tokens."""
    widths = ["--model.num-layers", "4", "--model.width", "1536", "--model.mlp-width", "4608"]
    shape = ["--train.batch-size", "8", "--train.seq-len", str(LENGTH), "--objective.chunk", "128"]
    return compiled("llama3-8b", "--chips", "h100:8", "--mesh.fsdp", "8", *widths, *shape, *flags)


def pairs_of_tokens(step: Step) -> set[str]:
    """Arrays that hold something of all pairs of a row's tokens."""
    return {shape for shape in step.shapes if re.search(rf"\b{LENGTH},{LENGTH}\]$", shape)}


@pytest.mark.parametrize(("remat", "forward"), [("full", 2), ("attention", 1), ("projections+attention", 1)])
def test_the_kernel_runs_once_a_layer_where_its_results_are_kept(remat, forward):
    step = llama("--execution.remat", remat)
    assert step.kernels == {"fmhaScaleBiasSoftmax": forward, "fmhaScaleBiasSoftmaxBackward": 1}
    assert pairs_of_tokens(step)


def test_what_is_offloaded_waits_in_the_hosts_memory():
    """Attention's result and statistics of four layers, one row a device; the kernel runs once, and the device keeps no
    more than where everything is computed again.
    """
    step, everything = llama("--execution.remat", "attention-offloaded"), llama("--execution.remat", "full")
    assert step.kernels == {"fmhaScaleBiasSoftmax": 1, "fmhaScaleBiasSoftmaxBackward": 1}
    assert step.on_host == {f"bf16[4,1,{LENGTH},32,128]", f"f32[4,1,32,{LENGTH}]"}
    assert not everything.on_host
    assert step.memory["peak"] <= everything.memory["peak"] + 2**20


def test_concatenated_documents_need_no_mask():
    """Causality is the kernel's own."""
    step = llama("--execution.remat", "attention", "--objective.packing", "concatenated")
    assert step.kernels == {"fmhaSoftmax": 1, "fmhaSoftmaxBackward": 1}
    assert not pairs_of_tokens(step)


def test_packed_rows_need_no_mask_of_all_pairs():
    """A loop's body each, forward and backward, and what more documents than usual would take: forward in both."""
    step = llama("--execution.remat", "attention", "--execution.attention", "packed")
    assert step.kernels == {"fmhaSoftmax": 3, "fmhaSoftmaxBackward": 2}
    assert not pairs_of_tokens(step)


def test_heads_of_256():
    step = llama("--model.head-width", "256", "--model.num-heads", "8", "--execution.remat", "attention")
    assert step.kernels == {"fmhaScaleBiasSoftmax": 1, "fmhaScaleBiasSoftmaxBackward": 1}


def test_products_in_eight_bits_are_cublas_own():
    """A layer's seven, forwards and twice backwards."""
    step = llama("--execution.quantization", "fp8", "--execution.remat", "none")
    assert step.products["f8"] == 3 * 7
    assert step.products["wide"] >= 3  # the head's
    assert llama("--execution.remat", "none").products["f8"] == 0
