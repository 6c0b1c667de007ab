"""Tiny bases of adapters, the experiments on them, and what goes from PEFT's models into ours."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax.linen import meta

from transformer import checkpoint
from transformer.adapters.config import AdapterConfig
from transformer.interop.family import Family
from transformer.models import Architecture, architecture_to_dict
from transformer.models.llama import LlamaConfig
from transformer.objectives.causal_lm import CausalLM
from transformer.parallel.mesh import MeshConfig
from transformer.params import flatten, name_of, unflatten
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.transfer.config import InitConfig

LLAMA = LlamaConfig(
    vocab_size=64, context_length=32, width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_width=4, mlp_width=24
)
ONE = MeshConfig(data=1)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup_steps=0, weight_decay=0.1)


def drawn(model: Architecture, seed: int = 0) -> Any:
    """Returns parameters that are far from where a run begins, biases too: noise, about 1 in the norms' scales.

    Nothing else is about a number that is not 0: what all outputs of a layer share, a norm takes away again, and of
    float32's digits those that are left are fewer.
    """
    rng = np.random.default_rng(seed)
    leaves = flatten(jax.eval_shape(lambda: meta.unbox(model.abstract_params())))
    return unflatten(
        {
            path: (rng.normal(size=leaf.shape) * 0.2 + (name_of(path) == "scale")).astype(np.float32)
            for path, leaf in leaves.items()
        }
    )


def save_base(run: Path, model: Architecture, params: Any) -> str:
    """Writes a checkpoint of weights alone; returns the run folder."""
    record = {"architecture.json": checkpoint.to_json(architecture_to_dict(model))}
    checkpoint.save_params(run / "checkpoints" / "0", jax.tree.map(jax.numpy.asarray, params), record)
    return str(run)


def base_from(run: Path, family: Family, model: Architecture, theirs: Any) -> str:
    """Writes a checkpoint of the weights of a model of Transformers."""
    tensors = {name: tensor.detach().numpy() for name, tensor in theirs.state_dict().items()}
    return save_base(run, model, family.from_hf(tensors, model))


def experiment_of(
    path: str,
    adapter: AdapterConfig,
    model: Architecture = LLAMA,
    mesh: MeshConfig = ONE,
    **settings: Any,
) -> Experiment:
    """Returns an experiment that trains an adapter of the weights at `path`."""
    train = TrainConfig(steps=20, batch_size=8, seq_len=min(32, model.longest_input or 32), **settings)
    return Experiment(
        "tiny", model, CausalLM(), optimizer=OPTIMIZER, train=train, mesh=mesh, init=InitConfig(path), adapter=adapter
    )


def apart(have: Any, want: Any) -> float:
    """Returns the Euclidean distance of two arrays, as a share of the second's length."""
    have, want = np.asarray(have, np.float64), np.asarray(want, np.float64)
    return float(np.linalg.norm(have - want) / max(np.linalg.norm(want), 1e-30))


def batch_of(seed: int, rows: int = 8, length: int = 32, vocab: int = 64) -> Any:
    """Returns a batch of causal language modelling without padding: one document a row."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, (rows, length + 1), dtype=np.int32)
    ones = np.ones((rows, length + 1), np.int32)
    places = np.broadcast_to(np.arange(length + 1, dtype=np.int32), tokens.shape)
    records = [{"tokens": t, "segment_ids": s, "positions": p} for t, s, p in zip(tokens, ones, places, strict=True)]
    examples = [CausalLM().example(record, rng) for record in records]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def adamw_of(model: torch.nn.Module, config: OptimizerConfig = OPTIMIZER) -> torch.optim.AdamW:
    """Returns torch's AdamW for what a model trains, which decays matrices alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.b1, config.b2), eps=config.epsilon)


def with_adapter(experiment: Experiment, **changed: Any) -> Experiment:
    """Returns an experiment with other fields of its adapter."""
    return dataclasses.replace(experiment, adapter=dataclasses.replace(experiment.adapter, **changed))
