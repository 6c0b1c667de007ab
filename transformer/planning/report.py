"""Report: what is known of a step before it is run, as lines for people."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from transformer.parallel.collectives import KINDS, Collective
from transformer.parallel.mesh import described
from transformer.planning.chips import GIB
from transformer.planning.division import Division
from transformer.planning.outlook import Outlook
from transformer.planning.prediction import LEFT, Prediction
from transformer.planning.search import Found
from transformer.planning.step import CompiledStep
from transformer.training.experiment import Experiment

MIB = 2**20
_ROOT = Path(__file__).resolve().parent.parent.parent


def summary(prediction: Prediction) -> Iterator[str]:
    """Yields devices, mesh, batch, the model's sizes, and the memory of a device."""
    experiment, topology = prediction.experiment, prediction.topology
    train = experiment.train
    hosts = 1 if topology.per_host is None else topology.devices // topology.per_host
    told = f", {hosts} host{'s'[: hosts > 1]}" if topology.per_host is not None else ""
    yield f"devices    {topology.devices:,} x {topology.chip} ({topology.memory / GIB:.1f} GiB each){told}"
    yield f"mesh       {described(prediction.division.sizes)}"
    cut = f", in {train.accumulation} microbatches" if train.accumulation > 1 else ""
    yield f"step       {experiment.name}: {train.batch_size:,} {_rows(prediction.division)}{cut}"
    pipeline = prediction.division.pipeline
    if pipeline is not None:
        yield f"           {pipeline.describe()}"
    yield f"remat      {experiment.execution.remat}"
    active, whole = experiment.model.active_params(), experiment.model.num_params()
    some = f", of which a token meets {active:,}" if active < whole else ""
    yield f"parameters {whole:,}{some}"
    yield from memory(prediction)


def memory(prediction: Prediction) -> Iterator[str]:
    """Yields the memory of a device: by the compiler, where it was asked, and by the analytic model, by parts."""
    parts, capacity = prediction.memory, prediction.topology.memory
    if prediction.compiled is not None:
        compiled = prediction.compiled.memory
        yield (
            f"memory     GiB a device: arguments {compiled.arguments / GIB:.3f} (state {compiled.state / GIB:.3f}, of "
            f"which parameters {compiled.params / GIB:.3f}), temporaries {compiled.temporaries / GIB:.3f}, "
            f"peak {compiled.peak / GIB:.3f}"
        )
    head = "memory     GiB a device: " if prediction.compiled is None else "           by the analytic model: "
    amounts = ", ".join(f"{part.name} {getattr(parts, part.name) / GIB:.3f}" for part in dataclasses.fields(parts))
    yield f"{head}{amounts}; peak {parts.peak / GIB:.3f}"
    if prediction.peak > capacity:
        yield f"           DOES NOT FIT: a device has {capacity / GIB:.1f} GiB{_largest(prediction)}"
    else:
        share = prediction.peak / capacity
        tight = "" if prediction.fits else f"; more than {LEFT:.0%}, which leaves them little"
        yield f"           {share:.0%} of a device's {capacity / GIB:.1f} GiB; libraries take some, too{tight}"


def _largest(prediction: Prediction) -> str:
    """Returns what would help a step that does not fit, after what takes the most."""
    parts = dataclasses.asdict(prediction.memory)
    name = max(parts, key=lambda part: parts[part])
    helps = {
        "weights": "more --mesh.fsdp or --mesh.pipeline",
        "moments": "more --mesh.fsdp, or --mesh.zero1 True",
        "gradients": "more --mesh.fsdp, or --train.accumulation 1",
        "activations": "--execution.remat full, or --train.accumulation",
        "working": "--train.accumulation, --mesh.tensor, or a smaller --objective.chunk",
    }[name]
    return f"; {name} take the most: {helps}"


def speed(prediction: Prediction) -> Iterator[str]:
    """Yields FLOPs, the time of a step and what it is spent on, and the speed that follows."""
    arithmetic, time, devices = prediction.arithmetic, prediction.time, prediction.topology.devices
    more = arithmetic.computed / arithmetic.model - 1
    yield (
        f"FLOPs      {arithmetic.model:.4g} a step by `exact`; computed are {arithmetic.computed:.4g} ({more:+.0%}: "
        "rematerialisation, idle stages, kernels, the optimizer, less the pairs that are skipped)"
    )
    compiled = prediction.compiled
    if compiled is not None and compiled.products is not None:
        uncounted = "" if compiled.products.counted else ", a loop of unknown length counted once"
        yield f"           the traced program has {compiled.products.flops:.4g}{uncounted}"
    yield (
        f"time       {time.total:.3g} s a step: products {time.products:.3g}, attention {time.attention:.3g}, memory "
        f"{time.memory:.3g}, and sent with nothing to hide behind {time.exposed:.3g}"
    )
    covered = "all hidden" if time.hidden <= time.computing else f"{time.hidden - time.computing:.3g} s more than that"
    yield (
        f"           sent beside computation: {time.hidden:.3g} s, {covered}; {time.apart:.3g} s a step if nothing "
        "overlapped"
    )
    use = "" if prediction.mfu is None else f", MFU {prediction.mfu:.1%}"
    rate = prediction.tokens_per_second
    yield f"speed      {rate:,.0f} tokens/s, {rate / devices:,.0f} a device{use}"


def run(outlook: Outlook) -> Iterator[str]:
    """Yields what the whole run takes, and what failures cost."""
    wall = outlook.wall / 86400
    costs = [f"{outlook.device_hours:,.0f} device hours"]
    if outlook.kwh is not None:
        costs.append(f"{outlook.kwh / 1000:,.1f} MWh at the devices' rated {outlook.watts:g} W")
    if outlook.cost is not None:
        costs.append(f"{outlook.cost:,.0f} at {outlook.price:g} a device hour")
    yield f"run        {outlook.steps:,} steps, {outlook.tokens:.4g} tokens: {wall:,.1f} days; {', '.join(costs)}"
    if outlook.mtbf is None or outlook.interval is None:
        yield "goodput    no failures are counted on: give --checkpoint.mtbf-hours"
        return
    yield (
        f"goodput    {outlook.goodput:.1%} with a failure every {outlook.mtbf / 3600:g} hours: save every "
        f"{outlook.interval / 60:.1f} minutes (Daly 2006), a save holds the loop for {outlook.save_seconds:.1f} s, a "
        f"restart takes {outlook.restart_seconds:.0f} s"
    )


def gaps(prediction: Prediction) -> Iterator[str]:
    """Yields what is not known of these figures, and which of them it touches."""
    if prediction.compiled is None:
        yield "note       nothing was compiled: every figure is the analytic model's (docs/planning.md has its errors)"
    if prediction.topology.platform == "cuda":
        if prediction.division.has_kernel(prediction.topology.platform):
            yield (
                "note       attention is cuDNN's: its workspace is in no figure of memory, and whether it has a kernel "
                "of these sizes shows on the GPU alone"
            )
        yield "note       memory leaves out NCCL's buffers, the driver's context and fragments"


def candidates(found: Found, count: int) -> Iterator[str]:
    """Yields a table of the best candidates of a search."""
    if not found.best:
        least = found.smallest
        yield (
            f"none of {found.tried:,} candidates fits: the least takes {least.peak / GIB:.1f} GiB of a device's "
            f"{least.topology.memory / GIB:.1f} ({flags(least)}): take more chips, or other ones"
        )
        return
    yield f"{found.tried:,} candidates by the analytic model, {len(found.best):,} fit; the best of them:"
    yield f"{'s a step':>9} {'MFU':>6} {'peak GiB':>9} {'sent GiB':>9}  flags"
    for each in found.best[:count]:
        use = "" if each.mfu is None else f"{each.mfu:.1%}"
        sent = _sent(each.collectives) / GIB
        yield f"{each.time.total:>9.3g} {use:>6} {each.peak / GIB:>9.1f} {sent:>9.1f}  {flags(each)}"


def flags(prediction: Prediction) -> str:
    """Returns the flags that make an experiment's mesh, rematerialisation and microbatches these."""
    experiment = prediction.experiment
    mesh = " ".join(f"--mesh.{axis} {size}" for axis, size in prediction.division.sizes.items() if size > 1)
    mesh = f"{mesh or '--mesh.data 1'}{' --mesh.zero1 True' if experiment.mesh.zero1 else ''}"
    return f"{mesh} --execution.remat {experiment.execution.remat} --train.accumulation {experiment.train.accumulation}"


def _rows(division: Division) -> str:
    """Returns what an update reads so many of: `rows of 1,024 tokens, packed`."""
    model, seq_len = division.experiment.model, division.experiment.train.seq_len
    if not model.input_size:
        return f"rows of {seq_len:,} tokens, {'packed' if division.has_segments else 'concatenated'}"
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
