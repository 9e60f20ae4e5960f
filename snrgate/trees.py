"""Parameter trees as named leaves, so that an error can say which one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["Leaves", "Selection", "check_floating", "flatten", "is_masked", "select"]


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
            return self.treedef.flatten_up_to(tree)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{name} does not have the tree structure of the updates ({error}); "
                "pass a tree with one leaf for every parameter"
            ) from error


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
        if not is_masked(value) and not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(
                f"{what} {path!r} has dtype {jnp.result_type(value)}, which has no real gradient; "
                "keep it out of the parameters, or wrap the transformation in optax.masked"
            )


class Selection(NamedTuple):
    """Some leaves of a tree: taken out of any tree of that structure, and put back."""

    leaves: Leaves
    chosen: list[bool]

    @property
    def paths(self) -> list[str]:
        """The paths of the chosen leaves."""
        return [path for path, on in zip(self.leaves.paths, self.chosen, strict=True) if on]

    def pick(self, tree: Any, name: str) -> list[Any]:
        """The chosen leaves of ``tree``; ``name`` is what an error calls it."""
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


def select(tree: Any, mask: Any | Callable[[Any], Any] | None, params: Any = None) -> Selection:
    """The leaves of ``tree`` that a mask, in optax's sense, lets through.

    Args:
        tree: a tree of arrays; places masked by optax are never chosen.
        mask: a tree of booleans like ``tree`` or a prefix of it, a function of ``params`` that
            returns one, or ``None`` for everything.
        params: what a function is given; ``None`` for ``tree`` itself.

    Raises:
        ValueError: the mask is not a prefix of the tree.

    Example:
        >>> from snrgate.trees import select
        >>> select({"a": 1.0, "b": {"c": 2.0}}, {"a": False, "b": True}).paths
        ['b/c']
    """
    leaves = flatten(tree)
    present = [not is_masked(x) for x in leaves.values]
    if mask is None or not leaves.values:
        return Selection(leaves, present)
    flags = mask(tree if params is None else params) if callable(mask) else mask
    try:
        chosen = jax.tree.leaves(jax.tree.broadcast(flags, tree, is_leaf=is_masked))
    except ValueError as error:
        raise ValueError(
            f"mask is not a prefix of the parameter tree ({error}); give one boolean for every "
            "parameter or subtree"
        ) from error
    return Selection(leaves, [p and bool(c) for p, c in zip(present, chosen, strict=True)])
