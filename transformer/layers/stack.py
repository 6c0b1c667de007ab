"""A stack of equal layers: parameters stored stacked, [layers, ...], whatever the way they are run.

Where a caller asks for the collection "intermediates", the stack's input and each layer's output go into it, the latter
stacked, [layers, B, T, D]: to be compared with another implementation, layer by layer.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from transformer.layers.execution import REMAT_POLICIES, Execution


class Stack(nn.Module):
    """Runs `num_layers` of the block that `make_block` makes, one after another, by a scan over stacked parameters.

    A stack whose layers differ in turn (GPT-3's dense and banded attention) is a stack of groups of them.
    """

    make_block: Callable[..., nn.Module]
    """Called with `name`; the block is called as block(x, per_layer, *shared, **static) -> (x, output)."""
    num_layers: int
    execution: Execution
    shared: bool = False
    """One block's parameters, not stacked, serve every layer (ALBERT)."""

    @nn.compact
    def __call__(self, x: Any, per_layer: Any, *shared: Any, **static: Any) -> tuple[Any, Any]:
        """Returns the last layer's `x` and the layers' outputs, stacked.

        Args:
          x: goes from layer to layer.
          per_layer: trees of arrays [layers, ...], of which each layer gets its own part; or None.
          *shared: arrays that every layer gets: masks, positions, biases.
          **static: Python values that every layer gets.
        """

        def layer(block, x, per_layer, shared):
            x, output = block(x, per_layer, *shared, **static)
            block.sow("intermediates", "hidden", x, reduce_fn=_last, init_fn=_nothing)
            return x, output

        unroll = self.execution.unroll or self.num_layers
        if self.execution.remat != "none":
            # Within a loop, forward and backward are apart already. Without one, the compiler would find that what is
            # computed again is known, and keep it.
            policy = REMAT_POLICIES[self.execution.remat]
            layer = nn.remat(layer, policy=policy, prevent_cse=unroll >= self.num_layers)
        scan = nn.scan(
            layer,
            variable_axes={"intermediates": 0} if self.shared else {"params": 0, "intermediates": 0},
            variable_broadcast="params" if self.shared else False,
            split_rngs={"params": not self.shared, "dropout": True},
            in_axes=(0, nn.broadcast),  # type: ignore[arg-type]
            length=self.num_layers,
            unroll=min(unroll, self.num_layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        self.sow("intermediates", "embedded", x, reduce_fn=_last, init_fn=_nothing)
        return scan(self.make_block(name="layers"), x, per_layer, shared)


def _nothing() -> None:
    return None


def _last(_: Any, value: Any) -> Any:
    return value
