"""The lines that a run prints before its first update."""

from collections.abc import Callable

import jax
from etils import epath

from transformer.training.session import Session
from transformer.training.throughput import MFU_CONVENTION, Throughput, peak_flops


def announce(session: Session, first: int, folder: epath.Path, report: Callable[[str], None]) -> Throughput:
    """Reports what is about to happen, and returns the clock that measures it.

    Args:
      session: the run's session.
      first: number of updates that were made before.
      folder: the run's folder.
      report: called with each line.
    """
    experiment, about, mesh = session.experiment, session.dataset.about, session.mesh
    model, train = experiment.model, experiment.train
    length, target_length = experiment.lengths
    mean = session.dataset.mean_length
    counted = length if mean is None else round(mean)  # what is beyond is no token, and hardly computed
    tokens = train.batch_size * (counted + target_length)
    flops = model.flops_per_token(counted, target_length)
    peak, source = peak_flops(list(mesh.devices.flat))
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    own = f"{length}" if mean is None else f"{counted} ({length} at most)"
    shape = f"({own} + {target_length})" if target_length else own
    devices = f"{mesh.size} {mesh.devices.flat[0].device_kind} device{'s' if mesh.size > 1 else ''}"
    active = "" if model.routing is None else f", of which a token meets {model.active_params():,}"
    report(f"{experiment.name}: {model.num_params():,} parameters{active}; {about.summary}")
    report(
        f"{train.steps:,} steps of {train.batch_size} x {shape} = {tokens:,} tokens, from step {first:,}, "
        f"on {devices}{f' ({axes})' if axes else ''}, {experiment.execution.dtype}, in {folder}"
    )
    if experiment.execution.remat == "auto":
        report(f"rematerialisation {session.program.remat.policy}: {session.program.remat.reason}")
    if (adapter := session.program.adapter) is not None:
        trained = sum(leaf.size for leaf in jax.tree.leaves(session.program.abstract.params))
        frozen = sum(leaf.size for leaf in adapter.frozen.values())
        report(
            f"an adapter of {experiment.init.path}: {trained:,} parameters are trained, {frozen:,} are frozen "
            f"({adapter.config.base_dtype})"
        )
    if session.layer_pipeline is not None:
        report(session.layer_pipeline.describe())
    for note in about.notes:
        report(note)
    evaluated, total = session.validation_batches
    more = "; --train.eval-batches None for all" if evaluated < total else ""
    report(f"evaluates on {evaluated:,} of {total:,} validation batches{more}")
    for note in about.training:
        report(note)
    if late := [place for place in train.skip_samples if place < first * train.batch_size]:
        report(f"{len(late):,} of --train.skip-samples came before step {first:,}: what was learnt from them stays")
    rate = f"{peak / 1e12:.3g} TFLOP/s" if peak else "unknown"
    report(f"MFU counts {flops / 1e6:.3g} MFLOP a token ({MFU_CONVENTION}); peak {rate}: {source}")
    return Throughput(tokens, flops, peak)
