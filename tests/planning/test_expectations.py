"""What a step compiled for 64 H100s sends: what theory says, by kind, count and bytes.

LLaMA 3 8B, its own sizes: compiling takes no longer for them, and no two of its arrays are of one size by chance.
"""

import pytest

from tests.planning.ahead import Step, compiled

pytestmark = pytest.mark.exhaustive

LAYERS, WIDTH, VOCABULARY = 32, 4096, 128_256
MATRICES = 2 * WIDTH * WIDTH + 2 * WIDTH * 1024 + 3 * WIDTH * 14_336
"""Weights of a layer: queries and output, keys and values of 8 heads of 128, three of the MLP."""
NORMS = 2 * WIDTH
ROWS, LENGTH = 64, 256
MIB = 2**20


def llama(*flags: str) -> Step:
    shape = ["--train.batch-size", str(ROWS), "--train.seq-len", str(LENGTH), "--objective.chunk", "128"]
    execution = ["--execution.attention", "xla", "--execution.remat", "full"]
    return compiled("llama3-8b", "--chips", "h100:64", *shape, *execution, *flags)


def sizes(sent) -> list[int]:
    """The numbers of elements of what is sent, once for each collective of a step's text."""
    return [elements for one in sent for _, elements in one.arrays]


def bytes_of(sent) -> int:
    return sum(one.payload for one in sent)


@pytest.fixture(scope="module")
def fsdp():
    return llama("--mesh.fsdp", "64")


def test_fsdp_gathers_each_layer_once_forward_and_once_backward(fsdp):
    gathers = fsdp.over("fsdp", kind="all-gather", times=LAYERS)
    forward, backward = ([one for one in gathers if one.backward == side] for side in (False, True))
    assert bytes_of(forward) == 2 * MATRICES + 4 * NORMS
    # The norms' scales, 32 KiB a layer, once for what is computed again and once for their gradients.
    assert bytes_of(backward) == 2 * MATRICES + 2 * 4 * NORMS


def test_fsdp_reduce_scatters_each_layer_once_in_float32(fsdp):
    scatters = fsdp.over("fsdp", kind="reduce-scatter", times=LAYERS)
    assert bytes_of(scatters) == 4 * (MATRICES + NORMS)
    assert {dtype for one in scatters for dtype, _ in one.arrays} == {"f32"}


def test_fsdp_moves_no_logits_no_activations_and_no_whole_stack(fsdp):
    parameters = {
        WIDTH, WIDTH * WIDTH, WIDTH * 1024, WIDTH * 14_336, VOCABULARY * WIDTH,
    }  # fmt: skip
    moved = [one for one in fsdp.collectives if one.kind in ("all-gather", "reduce-scatter")]
    floats = {elements for one in moved for dtype, elements in one.arrays if not dtype.startswith("s")}
    assert floats <= parameters  # of integers, the tokens' ids travel
    assert bytes_of([one for one in fsdp.collectives if one.kind == "all-reduce"]) < MIB  # the loss, the norm


def test_fsdp_gathers_the_unembedding_once_and_reduces_its_gradient_once(fsdp):
    vocabulary = [one for one in fsdp.collectives if VOCABULARY * WIDTH in sizes([one])]
    assert {one.times for one in vocabulary} == {1}, "once a chunk"
    gathers = [one for one in vocabulary if one.kind == "all-gather"]
    assert bytes_of(gathers) == 2 * VOCABULARY * WIDTH, "the token embedding is gathered whole, or in float32"
    assert len(gathers) == 1


def test_data_parallelism_reduces_over_fsdp_first_and_all_reduces_an_eighth():
    step = llama("--mesh.data", "8", "--mesh.fsdp", "8")
    layers = step.over("data", kind="all-reduce", times=LAYERS)
    assert bytes_of(layers) == 4 * (MATRICES + NORMS) // 8
    others = [one for one in step.collectives if one.kind == "all-reduce" and one.times == 1]
    assert bytes_of(others) <= 2 * 4 * VOCABULARY * WIDTH // 8 + MIB, "an embedding's gradient is all-reduced whole"


def test_tensor_parallelism_all_reduces_activations_alone():
    step = llama("--mesh.fsdp", "8", "--mesh.tensor", "8")
    activations = ROWS // 8 * LENGTH * WIDTH
    reduced = step.over("tensor", kind="all-reduce", times=LAYERS)
    assert set(sizes(reduced)) == {activations}
    assert len(sizes(reduced)) == 5  # two forward, two backward, and attention's again, which remat computes anew


KEYS = ROWS // 16 * LENGTH * 1024
"""Elements of a layer's keys, or of its values, of the rows of one device of fsdp 16."""


@pytest.fixture(scope="module", params=["gather", "ring"])
def context(request):
    mesh = ["--mesh.fsdp", "16", "--mesh.sequence", "4", "--execution.remat", "none"]
    return request.param, llama(*mesh, "--execution.context", request.param)


def test_context_parallelism_gathers_keys_and_values_once_each_way_or_passes_them_on(context):
    way, step = context
    large = [one for one in step.over("sequence") if one.payload > MIB]
    kinds = {one.kind for one in large}
    # Devices along the axis hold the same parts of parameters, and add up their gradients, which all are reduced.
    reduced = [one for one in large if one.kind == "all-reduce" and one.times == LAYERS]
    assert sum(sizes(reduced)) == pytest.approx((MATRICES + NORMS) / 16, rel=0.01)
    if way == "ring":
        assert kinds == {"all-reduce", "collective-permute"}
        return
    assert kinds == {"all-reduce", "all-gather", "reduce-scatter"}
    for kind in ("all-gather", "reduce-scatter"):
        moved = step.over("sequence", kind=kind, times=LAYERS)
        assert sizes(moved).count(KEYS) == 2, kind


def test_state_under_fsdp_8_is_an_eighth_of_a_copy():
    whole, split = (llama(*mesh).memory for mesh in (["--mesh.data", "64"], ["--mesh.data", "8", "--mesh.fsdp", "8"]))
    for part in ("state", "arguments"):
        assert split[part] == pytest.approx(whole[part] / 8, rel=0.1), part


def test_an_odd_number_of_places_compiles():
    """Triton has no product of an image's 197 places and 8 rows a device, which XLA finds out too late."""
    shape = ["--model.num-layers", "1", "--train.batch-size", "64", "--execution.attention", "xla"]
    step = compiled("vit-b16", "--chips", "h100:8", *shape)
    assert {one.kind for one in step.over("data")} == {"all-reduce"}
    assert step.memory["peak"] > step.memory["state"] > 0


def test_experts_gather_tokens_and_scatter_sums_once_a_layer_each_way():
    """A mixture of Mixtral's widths, its matrices gathered over fsdp as a dense layer's are."""
    layers, mlp_width = 4, 14_336
    shape = ["--model.num-layers", str(layers), "--train.batch-size", "8", "--train.seq-len", str(LENGTH)]
    execution = ["--execution.attention", "xla", "--execution.remat", "full"]
    mesh = ["--mesh.expert", "4", "--mesh.fsdp", "2"]
    step = compiled("mixtral-8x7b", "--chips", "h100:8", *shape, *execution, *mesh)

    tokens, matrix = 8 // 2 * LENGTH * WIDTH, 8 // 4 * WIDTH * mlp_width

    def a_layer(kind: str, axis: str, size: int, *, backward: bool) -> float:
        """How often a layer sends an array of a size; the compiler peels a turn off a loop over layers."""
        sent = [one for one in step.over(axis, kind=kind) if one.backward == backward]
        return sum(one.times * sizes([one]).count(size) for one in sent) / layers

    # Tokens are gathered anew for what remat computes again; what else comes backward is the sums' gradients.
    assert a_layer("all-gather", "expert", tokens, backward=False) == 1
    assert a_layer("all-gather", "expert", tokens, backward=True) == 2
    for backward in (False, True):
        assert a_layer("reduce-scatter", "expert", tokens, backward=backward) == 1
        assert a_layer("all-gather", "fsdp", matrix, backward=backward) == 3
    assert a_layer("reduce-scatter", "fsdp", matrix, backward=True) == 3
    over_fsdp = step.over("fsdp")
    assert {dtype for one in over_fsdp if one.kind == "reduce-scatter" for dtype, _ in one.arrays} == {"f32"}
    assert max(sizes([*step.over("expert"), *over_fsdp])) == matrix, "a stack, or other devices' experts"
