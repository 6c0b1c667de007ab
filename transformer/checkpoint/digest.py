"""Digests of arrays' values: what was read is what was written, whatever the mesh and the files in between.

TensorStore checks its index, but not, as Orbax has it write them, the values: a flipped bit of a weight would be
restored in silence. So a checkpoint carries two numbers for each array, made from its bits:

    digest_j = sum_i bits_i * m_j(i)  (mod 2^32),  j = 1, 2

over the elements i in row-major order, where m_j(i) is an odd number scattered by i. The sum is one of integers, which
has no order: any sharding gives the same. An odd factor can be undone modulo 2^32, so that one changed element always
changes both numbers; of other changes, one in 2^64 goes unseen. It is no protection against a forger.
"""

import functools
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from transformer.params import flatten

DigestRecord = dict[str, dict[str, Any]]
"""Path of an array -> its `shape`, `dtype` and `digest`: JSON values."""

_SCATTER, _FACTORS = np.uint32(0x9E3779B1), (np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D))  # xxHash's primes
_COMPILING = threading.Lock()


def start_digests(tree: Any) -> jax.Array:
    """Returns uint32[leaves, 2] on every device; does not wait for it."""
    return prepare_digests(tree)(jax.tree.leaves(tree))


def prepare_digests(tree: Any) -> Callable[[list[Any]], jax.Array]:
    """Returns the compiled function of a tree's leaves; call it beforehand, in another thread, to have it at once.

    Args:
      tree: the arrays, or ShapeDtypeStructs with the same shardings.
    """
    described = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in jax.tree.leaves(tree))
    with _COMPILING:
        return _compiled(described)


def digest_record(tree: Any, digests: jax.Array) -> DigestRecord:
    """Returns what `start_digests` came to, as JSON values; waits for it.

    Args:
      tree: the arrays, or their shapes.
      digests: of `start_digests`.
    """
    return _record(flatten(tree), digests)


def _record(leaves: Mapping[str, Any], digests: jax.Array) -> DigestRecord:
    pairs = zip(leaves.items(), np.asarray(digests).tolist(), strict=True)
    return {
        path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "digest": digest} for (path, leaf), digest in pairs
    }


def differing(tree: Any, recorded: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the paths of the arrays whose values are not those of the record.

    An array that was restored into a wider type is compared in the type that was saved; one in a narrower type cannot
    be, and passes. Paths that the record does not know pass too: it is the reader who says what must be there.
    """
    as_saved = {path: leaf.astype(recorded[path]["dtype"]) for path, leaf in _comparable(tree, recorded).items()}
    # A list, which keeps their order: in the tree's own, a save has the same program.
    found = _record(as_saved, start_digests([*as_saved.values()]))
    return [path for path in as_saved if found[path] != dict(recorded[path])]


def prepare_differing(abstract: Any, recorded: Mapping[str, Mapping[str, Any]]) -> None:
    """Compiles what `differing` runs for such a tree of ShapeDtypeStructs, so that it need not."""
    known = _comparable(abstract, recorded)
    prepare_digests([leaf.update(dtype=jnp.dtype(recorded[path]["dtype"])) for path, leaf in known.items()])


def _comparable(tree: Any, recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the leaves of a record, by path, that are of a type as wide as was saved."""
    return {
        path: leaf
        for path, leaf in flatten(tree).items()
        if path in recorded and _as_wide(leaf.dtype, recorded[path]["dtype"])
    }


def _as_wide(now: Any, saved: str) -> bool:
    with jax.numpy_dtype_promotion("standard"):  # of which the answer is a rule, whatever the arithmetic may do
        return np.can_cast(jnp.dtype(saved), now)


@functools.cache
def _compiled(described: tuple[tuple[tuple[int, ...], Any, Any], ...]) -> Callable[[list[Any]], jax.Array]:
    leaves = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype, sharding in described]
    sharding = leaves[0].sharding if leaves else None
    everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None
    return jax.jit(_digests, out_shardings=everywhere).lower(leaves).compile()


def _digests(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_digest(leaf) for leaf in leaves]) if leaves else jnp.zeros((0, 2), jnp.uint32)


@jax.jit  # leaves of one shape are traced once
def _digest(leaf: jax.Array) -> jax.Array:
    """Returns uint32[2]."""
    words = _words(leaf)
    # Without a reshape, which would move a sharded array about.
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    scattered = place * _SCATTER
    scattered ^= scattered >> np.uint32(15)
    products = [words * (scattered * factor | np.uint32(1)) for factor in _FACTORS]
    # One reduction of both: two would keep what they share, twice the array, in memory.
    zeros = [np.uint32(0) for _ in products]
    add = lambda one, other: [a + b for a, b in zip(one, other, strict=True)]  # noqa: E731
    return jnp.stack(jax.lax.reduce(products, zeros, add, range(words.ndim)))


def _words(leaf: jax.Array) -> jax.Array:
    """Returns an array's bits as uint32, with one axis more where an element has 64."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    width = leaf.dtype.itemsize
    if width >= 4:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint16 if width == 2 else jnp.uint8).astype(jnp.uint32)
