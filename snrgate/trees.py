"""Parameter trees as named leaves, so that an error can name the leaf."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from snrgate.block import Sides

__all__ = ["Leaves", "Selection", "check_floating", "flatten", "is_function", "is_masked", "select"]


def is_masked(x: Any) -> bool:
    """Whether ``x`` is what optax.masked and optax.partition leave in place of a parameter."""
    return isinstance(x, optax.MaskedNode)


class Leaves(NamedTuple):
    """A flattened tree: one path a leaf, the leaves, and how to put them back."""

    paths: list[str]
    values: list[Any]
    treedef: jax.tree_util.PyTreeDef

    def unflatten(self, values: list[Any]) -> Any:
        """The tree again, with other values."""
        return jax.tree.unflatten(self.treedef, values)

    def match(self, tree: Any, name: str) -> list[Any]:
        """The leaves of another tree in the same places.

        Args:
            tree: a tree of the same structure; where this one is masked it may hold anything.
            name: what to call it in an error.

        Raises:
            ValueError: the structures differ.
        """
        try:
            matched = self.treedef.flatten_up_to(tree)
        except (ValueError, TypeError, KeyError):
            matched = None
        if matched is not None and all(map(_one_leaf, self.values, matched)):
            return matched
        # The error of JAX would print the arrays, so it is not the cause of this one.
        raise ValueError(
            f"{name} does not have the tree structure of the updates ({self._difference(tree)}); "
            "pass a tree with one leaf for every parameter"
        )

    def _difference(self, tree: Any) -> str:
        """In what the paths of another tree differ."""
        given = flatten(tree).paths
        missing = [p for p in self.paths if p not in given]
        extra = [p for p in given if p not in self.paths]
        told = [
            f"{word} {', '.join(map(repr, paths[:3]))}" + (", ..." if len(paths) > 3 else "")
            for word, paths in (("it lacks", missing), ("it has besides", extra))
            if paths
        ]
        return " and ".join(told) or "its containers are of another kind"


def _one_leaf(here: Any, there: Any) -> bool:
    """Whether one leaf matches one leaf. A masked place matches anything.

    The sums along both sides of a kernel are two arrays that stand for one leaf.
    """
    by_sides = isinstance(getattr(there, "sides", None), Sides)
    return is_masked(here) or is_masked(there) or by_sides or jax.tree_util.all_leaves([there])


def is_function(x: Any) -> bool:
    """Whether a mask is a function of the parameters, and not a tree of flags that can be called.

    A module of Equinox or Flax can be called too, but its leaves are the flags.
    """
    return callable(x) and jax.tree.leaves(x) == [x]


def _name(path: tuple[Any, ...]) -> str:
    # Flax NNX keeps the array one attribute below the parameter: kernel.value is "kernel".
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Any) -> Leaves:
    """Flatten a tree of parameters, keeping masked places as leaves.

    Example:
        >>> from snrgate.trees import flatten
        >>> flatten({"dense": {"bias": 1.0, "kernel": 2.0}}).paths
        ['dense/bias', 'dense/kernel']
    """
    with_path, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)
    return Leaves([_name(p) for p, _ in with_path], [v for _, v in with_path], treedef)


def check_floating(leaves: Leaves, what: str) -> None:
    """Refuse leaves without a real gradient.

    Raises:
        TypeError: a leaf is not a real floating-point array; the message names it.
    """
    for path, value in zip(leaves.paths, leaves.values, strict=True):
        if is_masked(value):
            continue
        dtype = getattr(value, "dtype", None)
        if dtype is None and isinstance(value, (bool, int, float, complex)):
            dtype = jnp.result_type(value)
        if dtype is None:
            kind = getattr(value, "__name__", type(value).__name__)
            raise TypeError(
                f"{what} {path!r} is no array but {kind!r}; keep it out of the parameters "
                "(equinox.partition and nnx.split do), or wrap the transformation in optax.masked"
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{what} {path!r} has dtype {dtype}, which has no real gradient; "
                "keep it out of the parameters, or wrap the transformation in optax.masked"
            )


class Selection(NamedTuple):
    """A choice of leaves, taken out of any tree of one structure, and put back."""

    leaves: Leaves
    chosen: list[bool]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the chosen leaves."""
        values = zip(self.leaves.values, self.chosen, strict=True)
        return [jnp.shape(x) for x, on in values if on]

    @property
    def paths(self) -> list[str]:
        """The paths of the chosen leaves."""
        return [path for path, on in zip(self.leaves.paths, self.chosen, strict=True) if on]

    def pick(self, tree: Any, name: str) -> list[Any]:
        """The chosen leaves of ``tree``. An error calls the tree ``name``."""
        matched = self.leaves.match(tree, name)
        return [x for x, on in zip(matched, self.chosen, strict=True) if on]

    def put(self, values: list[Any], others: Any = None) -> Any:
        """A tree of ``values`` in the chosen places, and of ``others`` (or masked) elsewhere."""
        rest = (
            [optax.MaskedNode()] * len(self.chosen)
            if others is None
            else self.leaves.match(others, "the other leaves")
        )
        new = iter(values)
        return self.leaves.unflatten(
            [next(new) if on else x for x, on in zip(rest, self.chosen, strict=True)]
        )


def _is_flag(x: Any) -> bool:
    """Whether a value is one boolean (or a whole number in its place) that is known now."""
    traced = isinstance(x, jax.core.Tracer)
    return not traced and np.ndim(x) == 0 and np.asarray(x).dtype.kind in "biu"


def select(tree: Any, mask: Any | Callable[[Any], Any] | None, params: Any = None) -> Selection:
    """The leaves of ``tree`` that a mask, in optax's sense, lets through.

    Args:
        tree: a tree of arrays; places masked by optax are never chosen.
        mask: a tree of booleans like ``tree`` or a prefix of it, a function of ``params`` that
            returns one, or ``None`` for everything.
        params: the argument of a mask that is a function; ``None`` for ``tree`` itself.

    Raises:
        ValueError: the mask is not a prefix of the tree.
        TypeError: a flag is no boolean, or not known while tracing.

    Example:
        >>> from snrgate.trees import select
        >>> select({"a": 1.0, "b": {"c": 2.0}}, {"a": False, "b": True}).paths
        ['b/c']
    """
    leaves = flatten(tree)
    present = [not is_masked(x) for x in leaves.values]
    if mask is None or not leaves.values:
        return Selection(leaves, present)
    flags = mask
    if is_function(mask):
        flags = mask(tree if params is None else params)
    try:
        chosen = jax.tree.leaves(jax.tree.broadcast(flags, tree, is_leaf=is_masked))
    except ValueError:
        chosen = None
    if chosen is None:
        raise ValueError(
            f"mask is not a prefix of the parameter tree: it has {flatten(flags).paths[:5]}, the "
            f"parameters are {leaves.paths[:5]}; give one boolean for every parameter or subtree"
        )
    for path, flag in zip(leaves.paths, chosen, strict=True):
        if not _is_flag(flag):
            raise TypeError(
                f"mask has {type(flag).__name__!r} for {path!r}; give one boolean that is known "
                "now for every parameter or subtree, no array of them and nothing traced"
            )
    return Selection(leaves, [p and bool(c) for p, c in zip(present, chosen, strict=True)])
