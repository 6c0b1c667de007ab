"""How much of the code a person has to read to follow one forward pass."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import transformer
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig

ROOT = Path(transformer.__file__).parent


def executed_files(function) -> set[str]:
    """The files of the package that a call executes something of."""
    seen = set()
    sys.setprofile(lambda frame, event, _: seen.add(frame.f_code.co_filename))
    try:
        function()
    finally:
        sys.setprofile(None)
    return {str(Path(file).relative_to(ROOT)) for file in seen if Path(file).is_relative_to(ROOT)}


def test_a_gpt_is_read_in_ten_files_from_its_config_to_its_logits():
    """In training, on default execution. The sizes are nobody else's: what JAX has traced before is not run again."""
    config = GPTConfig(vocab_size=37, context_length=11, width=15, num_layers=2, num_heads=3)
    tokens, execution = jnp.zeros((1, 11), jnp.int32), Execution()

    def forward():
        model = config.build(execution)
        variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
        rngs = {"dropout": jax.random.key(1)}

        def logits(variables: Any) -> jax.Array:
            outputs: Any = model.apply(variables, tokens, deterministic=False, rngs=rngs)
            return outputs.logits

        jax.eval_shape(logits, variables)

    files = executed_files(forward)
    assert files == {
        "layers/attention.py",
        "layers/execution.py",
        "layers/heads.py",
        "layers/mlp.py",
        "layers/primitives.py",
        "models/decoder.py",
        "models/gpt.py",
        "ops/attention.py",
        "ops/elementwise.py",
        "parallel/rules.py",
    }
