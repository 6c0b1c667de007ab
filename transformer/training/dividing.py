"""Whether a mesh serves an experiment: divides its rows, lengths and parameters, has its kernels. If not: a line."""

from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh

from transformer.errors import UserError
from transformer.layers.execution import OFFLOADED
from transformer.models.architecture import undivided_lengths
from transformer.parallel.layout import batch_divisor
from transformer.parallel.pipeline import pipeline_on
from transformer.parallel.rules import RULES, resolve, split_axes
from transformer.training.experiment import Experiment


def check_batch(experiment: Experiment, mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError where the mesh does not divide the rows of a microbatch, accumulation's or a pipeline's, or the
    lengths of sequences.
    """
    train = experiment.train
    rows, parts = train.microbatch_size, batch_divisor(mesh)
    if rows % parts:
        cut = f" / accumulation {train.accumulation}" if train.accumulation > 1 else ""
        axes = split_axes(RULES["activation_batch"], mesh.shape)
        raise UserError(
            f"--train.batch-size {train.batch_size}{cut} = {rows} rows are not divided by the mesh's "
            f"{' x '.join(axes)} = {parts} devices: change one of them (--mesh.{', --mesh.'.join(axes)})"
        )
    pipeline_on(mesh, experiment.execution.microbatches, rows)
    _check_lengths(experiment, mesh.shape["sequence"])


def _check_lengths(experiment: Experiment, sequence: int) -> None:
    """Raises UserError where so many devices do not divide the places of each of the model's stacks."""
    model, train = experiment.model, experiment.train
    for refusal in undivided_lengths(model, sequence):
        raise UserError(refusal)
    tokens, targets = experiment.lengths
    of_tokens, of_targets = f"of --train.seq-len {train.seq_len}", "of the objective's targets"
    for places, what in (
        (0 if model.fixed_length is not None else tokens, of_tokens),
        (targets, of_tokens if targets == train.seq_len else of_targets),
    ):
        if places % sequence:
            raise UserError(
                f"--mesh.sequence {sequence} does not divide the {places} places {what}: change one of them"
            )


def check_kernels(experiment: Experiment, mesh: Mesh) -> None:
    """Raises UserError where the mesh's devices do not have the attention that was chosen by name, or a pipeline is to
    keep its results in the host's memory.
    """
    device, attention = mesh.devices.flat[0], experiment.execution.attention
    if attention in ("cudnn", "packed") and device.platform != "gpu":
        raise UserError(
            f"--execution.attention {attention} runs on NVIDIA GPUs alone, and these devices are of the platform "
            f"{device.platform}: choose auto or xla"
        )
    if experiment.execution.remat.endswith(OFFLOADED) and mesh.shape["pipeline"] > 1:
        raise UserError(
            f"--execution.remat {experiment.execution.remat} has not been tried with --mesh.pipeline "
            f"{mesh.shape['pipeline']}, whose microbatches are kept by turns: choose "
            f"{experiment.execution.remat.removesuffix(OFFLOADED)}, or no pipeline"
        )
    _check_quantization(experiment, device)
    if attention == "packed" and int(device.compute_capability.split(".")[0]) < 9:
        raise UserError(
            f"--execution.attention packed needs a GPU of Hopper's generation or newer, not {device.device_kind}: "
            "choose auto or cudnn"
        )


def _check_quantization(experiment: Experiment, device: Any) -> None:
    """Raises UserError where products of 8-bit floats were asked for, and GPUs have none, or weights are frozen."""
    if experiment.execution.quantization == "none":
        return
    if device.platform == "gpu" and tuple(map(int, device.compute_capability.split("."))) < _FP8:
        raise UserError(
            f"--execution.quantization fp8 needs a GPU of Ada's or Hopper's generation or newer, not "
            f"{device.device_kind}: choose none"
        )
    if experiment.adapter.rank:
        raise UserError(
            "--execution.quantization fp8 is for weights that are trained, and --adapter.rank freezes them: choose "
            "none, or hold the frozen ones in fewer bits by --adapter.base-dtype"
        )


_FP8 = (8, 9)
"""Compute capability from which on GPUs multiply 8-bit floats."""


def check_attention(experiment: Experiment, mesh: Mesh) -> None:
    """Raises UserError where a ring along `sequence` lacks what the model's attention has.

    Attention itself says so, as it is traced: here on a few tokens, before data are read and anything is written.
    """
    sequence, model = mesh.shape["sequence"], experiment.model
    if experiment.execution.context != "ring" or sequence == 1:
        return
    inputs = model.example_inputs(experiment.train.microbatch_size, sequence)

    def forward(params: Any, key: jax.Array) -> Any:
        module = model.build(experiment.execution)
        return module.apply({"params": params}, **inputs, deterministic=False, rngs={"dropout": key})

    with jax.set_mesh(mesh):
        jax.eval_shape(forward, nn.meta.unbox(model.abstract_params()), jax.eval_shape(lambda: jax.random.key(0)))


def check_parameters(experiment: Experiment, mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError, naming the first, where the mesh does not divide a parameter."""
    for path, parameter in experiment.model.parameters.items():
        resolve(parameter.names, parameter.shape, mesh.shape, what=f"parameter {path}")
