"""The words of the page of the comparison; all numbers are filled in."""

import math
from collections.abc import Mapping

__all__ = ["ADVICE", "KINDS", "PAGE", "ROWS_PAGE", "numbers", "place", "verdict"]

KINDS = {"noisy": "noisy targets", "nuisance": "inputs of noise", "clean": "clean", "": "all rows"}
"""The kinds of rows, as keys and in words."""

Intervals = Mapping[str, tuple[float, float, float]]
"""The mean ratio of errors and its interval, by kind."""

_CLOSE = 0.01  # a mean ratio nearer to one than this is level, whatever its interval


def verdict(found: Mapping[str, Intervals]) -> str:
    """Where some contenders stand, from their errors over those of AdamW with a hold-out.

    Args:
        found: by what the sentence calls the contender.
    """
    return "\n".join(f"- {who} is {_places(intervals)}." for who, intervals in found.items())


def _places(found: Intervals) -> str:
    parts = [
        f"{place(found[kind])} {where} ({numbers(found[kind])})"
        for kind, where in (
            ("noisy", "where targets are noisy"),
            ("nuisance", "where inputs carry nothing"),
            ("clean", "on clean data"),
        )
        if not math.isnan(found[kind][0])
    ]
    return "; ".join(parts)


def place(found: tuple[float, float, float]) -> str:
    """Where a ratio of errors stands: its interval has to leave out one to count."""
    mean, low, high = found
    if high < 1 and mean < 1 - _CLOSE:
        return "ahead"
    if low > 1 and mean > 1 + _CLOSE:
        return "behind"
    return "not told apart"


def numbers(found: tuple[float, float, float]) -> str:
    """A ratio and its interval."""
    mean, low, high = found
    return f"{mean:.2f}, {low:.2f} to {high:.2f}"


ADVICE = """\
**Use the gate** for wrong labels of pictures and for noisy series, where one run at the default
settings is to be kept as it ends, and where many inputs carry nothing and the examples are many.
**Do not use it** where nine runs of AdamW with a strong weight decay can be had on a table, or
where targets are clean: there AdamW is better, and a twin chooses its settings as well as a
hold-out or better. **Retrain** what a hold-out has chosen, and try an average of the weights: both
are cheap, and both are better than the hold-out as it is.

Row by row, the error of one untuned gated run over that of AdamW with a hold-out (medians):

- below 0.95: {ahead};
- from 0.95 to 1.05: {level};
- above 1.05: {behind}."""

PAGE = """\
# Without clean validation data

Here is what people do today: they hold out a tenth of their noisy data, try nine settings of AdamW,
and stop by it. Beside it stand a gated run that nobody tunes, and runs whose settings and step a
*twin* chooses, without held-out data. The numbers are errors over those of AdamW with its hold-out
(mean ratio and 95 % interval; below 1 is better). "Not told apart" means that the interval holds 1.

{verdict}

{advice}

![Regret of five contenders on every row](../../docs/_static/regret.png)

The picture shows the error of each contender over that of the best one of the five. It is 1 where
a contender is the best. `PYTHONPATH=benchmarks python -m comparison` measures what is missing, and
`python -m comparison.page` writes this page and the pictures from the stored runs. Every number
stands in `results/comparison/rows.md`.

## The contenders that decide

Medians over the fresh seeds (their number in brackets): the share of wrong answers, or the mean
square. The best of a line is in bold. All but the first take nine runs of the same number of steps,
and *retrained* takes a tenth.

{deciding}

Beside them: what an oracle would reach that sees the test data, the average of AdamW's weights, and
the gate whose twin chooses the threshold and the step alone.

{beside}

How often each is the best or within 2 % of it, and what it loses where it is worst (*regret*: its
error over that of the best). No contender of this table has seen clean data.

{summary}

## Everything against AdamW with a hold-out

The mean ratio of errors, its 95 % interval over rows and seeds, and the number of rows. Not every
contender was measured on every row.

{against}

## What makes the gate work

The same gate with a part left out or put in the wrong place; ratios are to the gate itself. In
*shuffled* the gates of a tensor are in another order. In *mean* all of them have their mean, which
is a smaller learning rate for each tensor.

{controls}

Other gates and SOAP, none of them tuned, at their last step:

{single}

## Other ways to stop and to be robust

Rules that stop one untuned run of AdamW without held-out data:

{stops}

Other optimizers and losses, each with nine settings and a noisy hold-out (SAM takes two gradients a
step; GCE and ELR are for labels):

{peers}

Five-fold cross-validation takes 46 runs:

{folds}

What people use on tables in place of a network of their own:

{references}

## How it scales

![Five curves](../../docs/_static/scales.png)

Deliveries of food (package modeldata, {scales_seeds} seeds), whose targets carry noise of one
deviation, and digits with wrong labels. Only one thing changes along each curve.

## What a sceptic asks

{objections}

## The contenders

{contenders}

## The protocol

Settings of the gate, the grids and the rules were chosen on the seeds 100 and 101 of a few rows.
The seeds here are 0 to 4, as many of them as have been measured. The thresholds of *AdamW or gate,
twin* are those of an earlier benchmark, but the contender was added after eight rows had been seen.
The grid of AdamW spans what the study's tuning on clean data has chosen: rates of 1e-4, 5e-4 and
3e-3, and decays of 0, 1 and 10. A run has forty evaluations, at which it may be stopped. All
contenders of a seed have the same initial weights and the same order of batches.
"""

ROWS_PAGE = """\
# Every number of the comparison

`PYTHONPATH=benchmarks python -m comparison.page` writes this page. Errors are the share of wrong
answers, or the mean square in units of the variance (for photos, of white). Medians over seeds.
"""
