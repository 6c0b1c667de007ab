"""Report: what a compiled step says of itself, as lines for people."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from transformer.parallel.collectives import KINDS, Collective
from transformer.parallel.mesh import described
from transformer.planning.chips import GIB
from transformer.planning.step import CompiledStep
from transformer.training.experiment import Experiment

MIB = 2**20
_ROOT = Path(__file__).resolve().parent.parent.parent


def summary(step: CompiledStep, experiment: Experiment, capacity: int) -> Iterator[str]:
    """Yields devices, mesh, batch, and the memory of a device, which holds `capacity` bytes."""
    memory = step.memory
    hosts = len({device.process_index for device in step.mesh.devices.flat})
    train = experiment.train
    yield f"devices    {step.mesh.size} x {step.mesh.devices.flat[0].device_kind}, {hosts} host{'s'[: hosts > 1]}"
    yield f"mesh       {described(step.mesh.shape)}"
    cut = f", in {train.accumulation} microbatches" if train.accumulation > 1 else ""
    yield f"step       {experiment.name}: {train.batch_size:,} {_rows(experiment)}{cut}"
    yield (
        f"memory     GiB a device: arguments {memory.arguments / GIB:.3f} (state {memory.state / GIB:.3f}, of which "
        f"parameters {memory.params / GIB:.3f}), temporaries {memory.temporaries / GIB:.3f}, "
        f"peak {memory.peak / GIB:.3f}"
    )
    if memory.peak > capacity:
        yield f"           DOES NOT FIT: a device has {capacity / GIB:.1f} GiB"
    else:
        share = memory.peak / capacity
        yield f"           {share:.0%} of the {capacity / GIB:.1f} GiB that a device has; libraries take some, too"


def _rows(experiment: Experiment) -> str:
    """Returns what an update reads so many of: `rows of 1,024 tokens, packed`."""
    model, seq_len = experiment.model, experiment.train.seq_len
    if not model.input_size:
        return f"rows of {seq_len:,} tokens, packed"
    images = len(model.input_size) == 3
    what = f"{'images' if images else 'spectrograms'} of {' x '.join(f'{size:,}' for size in model.input_size)}"
    return what if model.vocab_size is None else f"{what} with {seq_len:,} tokens"


def advice(step: CompiledStep, experiment: Experiment) -> Iterator[str]:
    """Yields what the program shows that another mesh would do better, a line each."""
    of_whole_arrays = _over(step, "fsdp", "all-reduce")
    size = step.mesh.shape["fsdp"]
    if of_whole_arrays > _over(step, "fsdp", "all-gather", "reduce-scatter"):
        split = next((part for part in (4, 2) if size % part == 0 and size > part), None)
        other = f": split it, as by --mesh.data {split} --mesh.fsdp {size // split}" if split else ""
        yield (
            f"warning    the compiler gathers and scatters over fsdp {size} by all-reduces of whole arrays, which send "
            f"twice as much{other}"
        )
    parts, sent = experiment.train.accumulation, _over(step, "fsdp", *KINDS)
    if parts > 1 and sent:
        yield (
            f"note       each of the {parts} microbatches of --train.accumulation gathers parameters and scatters "
            f"gradients over fsdp {size}: {sent / GIB:.1f} GiB a device and step, all of them together; larger "
            "microbatches send as much less"
        )


def _over(step: CompiledStep, axis: str, *kinds: str) -> float:
    """Returns the bytes that one device sends in a step along a mesh axis by collectives of some kinds."""
    return _sent(each for each in step.collectives if each.axes == (axis,) and each.kind in kinds)


def collectives(sent_in_step: Sequence[Collective]) -> Iterator[str]:
    """Yields a table of a step's collectives: those of one place in the source a line, the most sent first; sums."""
    lines: dict[tuple, list[Collective]] = defaultdict(list)
    for collective in sent_in_step:
        axes = "+".join(collective.axes) or "none"
        place = collective.kind, axes + "?" * collective.partial, collective.group, _where(collective)
        lines[place].append(collective)
    yield _HEADER
    for (kind, axes, group, where), members in sorted(lines.items(), key=lambda item: -_sent(item[1])):
        largest = max((array for member in members for array in member.arrays), key=lambda array: array.bytes)
        yield _line(kind, axes, str(group), members, str(largest), where)
    yield ""
    for kind, axes in sorted({key[:2] for key in lines}):
        members = [member for key, those in lines.items() if key[:2] == (kind, axes) for member in those]
        yield _line(kind, axes, "", members)
    yield _line("all", "", "", sent_in_step)
    if any(not collective.counted for collective in sent_in_step):
        yield "+ in a loop that does not say how often it runs, and counts once"


def _line(kind: str, axes: str, group: str, members: Sequence[Collective], largest: str = "", where: str = "") -> str:
    times = f"{sum(member.times for member in members):,}{'+' * any(not member.counted for member in members)}"
    payload = sum(member.times * member.payload for member in members) / MIB
    figures = f"{group:>5} {times:>6} {payload:>12,.1f} {_sent(members) / MIB:>11,.1f}"
    return f"{kind:<19} {axes:<14} {figures}  {largest:<22} {where}".rstrip()


_HEADER = (
    f"{'kind':<19} {'axes':<14} {'group':>5} {'times':>6} {'payload MiB':>12} {'sent MiB':>11}  "
    f"{'largest array':<22} from"
)


def _sent(members: Iterable[Collective]) -> float:
    """Bytes that one device sends in a step."""
    return sum(member.times * member.sent for member in members)


def _where(collective: Collective) -> str:
    """Returns the pass, and the file and line in short."""
    file, _, line = collective.source.rpartition(":")
    if "/site-packages/" in file:
        file = file.partition("/site-packages/")[2]
    elif Path(file).is_relative_to(_ROOT):
        file = str(Path(file).relative_to(_ROOT))
    return f"{_pass(collective.operation):<9}{file}:{line}" if file else _pass(collective.operation)


def _pass(operation: str) -> str:
    """Returns the part of the step that JAX's path to an operation belongs to."""
    return "backward" if "transpose(" in operation else "forward" if "jvp(" in operation else "update"
