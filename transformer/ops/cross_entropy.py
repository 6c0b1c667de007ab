"""Cross entropy of a language model's head: hidden states and the unembedding in, sums out, chunk by chunk.

Shape letters: B batch, T length, D model width, V vocabulary, C chunk.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from transformer.errors import UserError
from transformer.ops.word_loss import Words, word_loss
from transformer.parallel.local import devices_along, rows_here, summed_along, target_platform


class _Sums(NamedTuple):
    loss: jax.Array
    nll: jax.Array
    z_loss: jax.Array
    correct: jax.Array


def cross_entropy(
    hidden_BTD: jax.Array,
    kernel_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    bias: jax.Array | None = None,
    chunk: int | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Returns the weighted sum of losses, the sum of weights, and weighted sums of metrics, all float32 scalars.

    A token's loss is (1 - s) * nll + s * mean_v(-log p_v) + z * log(Z)^2: label smoothing as in Szegedy et al. 2016,
    section 7, and z-loss as in PaLM (Chowdhery et al. 2022, section 5).

    Args:
      hidden_BTD: the backbone's output; its dtype is that of the matrix products.
      kernel_VD: the unembedding, a row a word; best in float32, as its gradient comes back in its dtype.
      targets_BT: the right words. A value outside [0, V) counts only under weight 0.
      weights_BT: what each token counts; 0 for padding. Not differentiated.
      bias: [V], added to the logits.
      chunk: positions of the length axis taken at a time, so that B * chunk * V logits live at once; None: all.
      z_loss: z above.
      label_smoothing: s above.

    Returns:
      loss sum, weight sum, and {"nll", "z_loss", "correct"}: the sums of the plain negative log likelihood, of the z
      term (with its factor), and of right guesses.
    """
    if chunk is not None and chunk < 1:
        raise UserError(f"the cross entropy's chunk is {chunk}: it must be at least 1")
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"label smoothing {label_smoothing}: it must be in [0, 1)")
    weights_BT = weights_BT.astype(jnp.float32)
    words, loss = Words(hidden_BTD, kernel_VD, bias), _OfTargets(z_loss, label_smoothing)
    sums = word_loss(loss, words, None, (targets_BT, weights_BT), chunk=chunk)
    metrics = {"nll": sums.nll, "z_loss": sums.z_loss, "correct": sums.correct}
    return sums.loss, weights_BT.sum(), jax.tree.map(jax.lax.stop_gradient, metrics)


@dataclasses.dataclass(frozen=True)
class _OfTargets:
    """The loss of scores, given the right words (`word_loss.WordLoss`)."""

    sums: ClassVar[Any] = _Sums

    z_loss: float
    label_smoothing: float

    def __call__(
        self, scores_BCV: jax.Array, teacher_BCV: Any, per_token: Any, vocab_axes, *, with_gradients: bool
    ) -> tuple[_Sums, jax.Array | None]:
        del teacher_BCV
        targets_BC, weights_BC = per_token
        rows, parts = scores_BCV.shape[-1], devices_along(vocab_axes)
        vocab = rows * parts
        smooth, z = self.label_smoothing, self.z_loss
        targets_BC = jnp.clip(targets_BC, 0, vocab - 1)
        peak_BC1 = scores_BCV.max(axis=-1, keepdims=True)
        if vocab_axes:
            peak_BC1 = jax.lax.pmax(peak_BC1, vocab_axes)
        exp_BCV = jnp.exp(scores_BCV - peak_BC1)
        targets_BC, here_BC = rows_here(targets_BC, rows, vocab_axes)
        target_BC = jnp.take_along_axis(scores_BCV, targets_BC[..., None], axis=-1)[..., 0]
        if here_BC is not None:
            target_BC = jnp.where(here_BC, target_BC, jnp.float32(0))
        sum_BC1, target_BC, sum_BC = summed_along(
            (exp_BCV.sum(axis=-1, keepdims=True), target_BC, scores_BCV.sum(axis=-1) if smooth and parts > 1 else None),
            vocab_axes,
        )
        logz_BC = (peak_BC1 + jnp.log(sum_BC1))[..., 0]

        nll_BC = logz_BC - target_BC
        z_BC = z * jnp.square(logz_BC)
        loss_BC = nll_BC + z_BC
        if smooth:
            mean_BC = scores_BCV.mean(axis=-1) if sum_BC is None else sum_BC / vocab
            loss_BC = (1 - smooth) * nll_BC + smooth * (logz_BC - mean_BC) + z_BC
        correct_BC = (target_BC >= peak_BC1[..., 0]).astype(jnp.float32)
        sums = _Sums(*((values_BC * weights_BC).sum() for values_BC in (loss_BC, nll_BC, z_BC, correct_BC)))
        if not with_gradients:
            return sums, None

        factor_BC = weights_BC * (1 + 2 * z * logz_BC)
        dscores_BCV = exp_BCV * (factor_BC[..., None] / sum_BC1)
        if smooth:
            dscores_BCV -= (smooth / vocab) * weights_BC[..., None]
        amount_BC = (1 - smooth) * weights_BC
        if here_BC is not None:
            amount_BC = jnp.where(here_BC, amount_BC, jnp.float32(0))
        return sums, _subtract_at(dscores_BCV, targets_BC, amount_BC)


def _subtract_at(x_BCV: jax.Array, targets_BC: jax.Array, amount_BC: jax.Array) -> jax.Array:
    """Returns `x_BCV` less `amount_BC` at each token's target.

    On a CPU a scatter, in place: comparing every word with the target makes the whole loss take twice as long. On an
    accelerator the comparison fuses away.
    """
    if target_platform() == "cpu":
        rows, columns = jnp.indices(targets_BC.shape, dtype=jnp.int32, sparse=True)
        return x_BCV.at[rows, columns, targets_BC].add(-amount_BC)
    hit_BCV = targets_BC[..., None] == jnp.arange(x_BCV.shape[-1], dtype=targets_BC.dtype)[None, None]
    return x_BCV - jnp.where(hit_BCV, amount_BC[..., None], jnp.float32(0))
