"""Columns of a table as numbers: categories, missing values, standardisation."""

import datetime
from collections.abc import Iterable
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.preprocessing import OneHotEncoder

__all__ = ["Encoder", "Scaler", "is_frame", "merge"]

_CATEGORIES = 100  # of one column; the rarest share an input


def is_frame(x: Any) -> bool:
    """Whether ``x`` is a table of pandas, whose columns have types of their own."""
    return all(hasattr(x, name) for name in ("columns", "dtypes", "iloc"))


class Encoder:
    """Columns as numbers: a category becomes an input of its own, what is missing stays NaN.

    The columns of a table that are neither numbers nor booleans are categorical. A column of
    objects that are all numbers is one of numbers. A category that was not seen is none of the
    inputs. A missing category is a category.

    Args:
        x: a table of pandas, or an array of numbers.
        weights: how often each row counts.
    """

    def __init__(self, x: Any, weights: np.ndarray):
        dtypes = list(x.dtypes) if is_frame(x) else [x.dtype] * x.shape[1]
        self.names = [str(name) for name in (x.columns if is_frame(x) else range(x.shape[1]))]
        self.categorical = np.array(
            [not _is_numerical(x, at, dtype) for at, dtype in enumerate(dtypes)], bool
        )
        for name, dtype in zip(self.names, dtypes, strict=True):
            if dtype.kind in "mMc":
                raise ValueError(f"column {name!r} has dtype {dtype}; turn it into real numbers")
        self.numerical = x.shape[1] - int(self.categorical.sum())
        self.encoder = OneHotEncoder(
            handle_unknown="ignore", max_categories=_CATEGORIES, sparse_output=False
        )
        if self.categorical.any():
            categories = self._categories(x)
            for name, column in self._named(categories):
                _check_categories(name, column)
            self.encoder.fit(_twice_if_frequent(categories, weights))
            self.kinds = {name: _kinds(column) for name, column in self._named(categories)}

    def __call__(self, x: Any) -> np.ndarray:
        """The numbers, those of the numerical columns first."""
        if not is_frame(x):
            if self.categorical.any():
                raise ValueError(
                    f"column {self.names[int(self.categorical.argmax())]!r} is categorical; give a "
                    "table of pandas with the columns of fit, as an array has none"
                )
            return np.asarray(x, np.float64)
        numbers = self._numbers(x)
        if not self.categorical.any():
            return numbers
        categories = self._categories(x)
        for name, column in self._named(categories):
            if (new := _kinds(column) - self.kinds[name]) and self.kinds[name]:
                raise ValueError(
                    f"column {name!r} held {', '.join(self.kinds[name])} when the estimator was "
                    f"fitted, and holds {', '.join(new)} now, of which none would be known; give "
                    "the column the type that it had"
                )
        return np.hstack([numbers, np.asarray(self.encoder.transform(categories))])

    def _numbers(self, x: Any) -> np.ndarray:
        kept = np.flatnonzero(~self.categorical)
        numbers = np.empty((len(x), len(kept)))
        for to, at in enumerate(kept):
            try:
                numbers[:, to] = x.iloc[:, at].to_numpy(np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"column {str(x.columns[at])!r} held numbers when the estimator was fitted, "
                    f"and has dtype {x.dtypes.iloc[at]} now"
                ) from error
            if (bad := np.isinf(numbers[:, to])).any():
                raise ValueError(
                    f"column {str(x.columns[at])!r} is infinite in row {int(bad.argmax())} "
                    "(counted from 0); mark what is missing as NaN"
                )
        return numbers

    def _categories(self, x: Any) -> np.ndarray:
        """The categorical columns, in which whatever is missing is None."""
        table = x.iloc[:, np.flatnonzero(self.categorical)].astype(object)
        return table.where(table.notna(), None).to_numpy(object)

    def _named(self, categories: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
        """The name and the values of every categorical column."""
        names = np.array(self.names, object)[self.categorical]
        return zip(names, categories.T, strict=True)


def _is_numerical(x: Any, at: int, dtype: Any) -> bool:
    """Whether a column has numbers: by its type, or by its values where these are objects."""
    if str(dtype) != "object" or not is_frame(x):  # texts and categories of pandas are objects, too
        return dtype.kind in "biuf"
    return _kinds(x.iloc[:, at][x.iloc[:, at].notna()].to_numpy(object)) <= {"numbers"}


# Dates, times, lengths of time and complex numbers, as Python, NumPy and pandas have them.
_QUANTITIES = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    np.datetime64,
    np.timedelta64,
    complex,
    np.complexfloating,
)


def _kinds(column: np.ndarray) -> set[str]:
    """What kinds of values a column has, apart from what is missing."""
    given = {type(value) for value in column if value is not None}
    return {
        "numbers"
        if issubclass(kind, (Real, Decimal, np.bool_))
        else f"values of type {kind.__name__}"
        for kind in given
    }


def _check_categories(name: str, column: np.ndarray) -> None:
    """Refuse values of which no list of categories can be made, and those that are quantities."""
    given = [value for value in column if value is not None]
    kinds = dict.fromkeys(map(type, given))
    for kind in kinds:
        if issubclass(kind, _QUANTITIES) or kind.__name__ == "Period":  # of pandas
            raise ValueError(
                f"column {name!r} holds values of type {kind.__name__}, of which each would "
                "be a category of its own; turn it into real numbers"
            )
    try:
        sorted(set(given))
    except TypeError as error:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(
            f"column {name!r} holds values of the types {names}, which cannot be sorted into "
            "categories; make all of them texts, or all of them numbers"
        ) from error


def _twice_if_frequent(categories: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A table with each category once, and those twice that are to have an input of their own.

    scikit-learn counts the rows of a category. How often they count is told to it in this way.
    """
    columns = []
    for column in categories.T:
        often = dict.fromkeys(column, 0.0)
        for value, weight in zip(column, weights, strict=True):
            often[value] += weight
        ranked = sorted(often, key=lambda value: (-often[value], value is not None, value))
        columns.append(ranked + ranked[: _CATEGORIES - 1])
    rows = max(map(len, columns))
    table = np.empty((rows, len(columns)), object)
    for at, column in enumerate(columns):
        table[:, at] = column + column[:1] * (rows - len(column))
    return table


class Scaler(NamedTuple):
    """The standardisation of some columns.

    Attributes:
        mean: subtracted; a missing value is replaced by it.
        scale: divided by; 1 where a column is constant.
        missing: indices of the columns in which some of the values were missing. Each has one more
            input, which says where.
        varies: whether a column had different values. One that had not stays zero, because nothing
            is learned of it.
    """

    mean: np.ndarray
    scale: np.ndarray
    missing: np.ndarray
    varies: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, weights: np.ndarray, numbers: int) -> "Scaler":
        """The standardisation of examples that count ``weights``.

        Args:
            x: columns; the first ``numbers`` are numerical, the others zeros and ones, which stay.
            weights: how often each example counts.
            numbers: how many columns are numerical.
        """
        there = ~np.isnan(x[:, :numbers])
        known = np.where(there, x[:, :numbers], 0.0)
        counts = weights[:, None] * there
        total = np.maximum(counts.sum(0), np.finfo(float).tiny)
        # Scaled by its largest number, no column overflows when it is squared.
        size = np.maximum(np.abs(known).max(0, initial=0.0), np.finfo(float).tiny)
        mean = (counts * (known / size)).sum(0) / total
        deviation = np.sqrt((counts * np.square(known / size - mean)).sum(0) / total)
        varies = deviation > 10 * np.finfo(float).eps * np.abs(mean)
        rest = x.shape[1] - numbers
        return cls(
            np.concatenate([mean * size, np.zeros(rest)]),
            np.concatenate([np.where(varies, deviation * size, 1.0), np.ones(rest)]),
            np.flatnonzero(there.any(0) & ~there.all(0)),
            np.concatenate([varies, np.ones(rest, bool)]),
        )

    def open(self) -> "Scaler":
        """The same, where what is constant among the first examples may vary later."""
        return self._replace(varies=np.ones_like(self.varies))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The standardised columns, and one for each in which values were missing."""
        missing = np.isnan(x)
        known = np.where(missing | ~self.varies, 0.0, x / self.scale - self.mean / self.scale)
        return np.hstack([known, missing[:, self.missing]])


def merge(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are equal as one row, in an order that depends on the rows alone.

    A row of weight two is therefore the same as two rows, to the last bit.

    Args:
        rows: numbers; NaN equals NaN.
        weights: how often each row counts.

    Returns:
        The different rows, and the sums of their weights.
    """
    rows = np.ascontiguousarray(rows + 0.0)  # there is one zero
    rows[np.isnan(rows)] = np.nan  # and one NaN
    as_bytes = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
    _, first, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
    return rows[first], np.bincount(inverse, weights, len(first))
