"""The words of the page of the comparison; all numbers are filled in."""

import math
from collections.abc import Mapping

from snrgate.lab.study.tables import head, line

__all__ = ["ADVICE", "KINDS", "PAGE", "ROWS_PAGE", "numbers", "place", "verdict"]

KINDS = {"noisy": "noisy targets", "nuisance": "useless inputs", "clean": "clean", "": "all rows"}
"""The kinds of rows, as keys and in words."""

Intervals = Mapping[str, tuple[float, float, float]]
"""The mean ratio of errors and its interval, by kind."""

_CLOSE = 0.01  # a mean ratio nearer to one than this is level, whatever its interval


def verdict(found: Mapping[str, Intervals]) -> str:
    """Where some contenders stand, from their errors over those of AdamW with a hold-out.

    Args:
        found: by what the table calls the contender.
    """
    kinds = [kind for kind in KINDS if kind]
    lines = head(["contender", *(KINDS[kind] for kind in kinds)], left=1)
    for who, intervals in found.items():
        cells = [
            f"{place(intervals[k])} ({numbers(intervals[k])})" if intervals[k][0] > 0 else "-"
            for k in kinds
        ]
        lines.append(line([who, *cells]))
    return "\n".join(lines)


def place(found: tuple[float, float, float]) -> str:
    """Where a ratio of errors stands: its interval has to leave out one to count."""
    mean, low, high = found
    if math.isnan(low):
        return "too few rows to tell"
    if high < 1 and mean < 1 - _CLOSE:
        return "ahead"
    if low > 1 and mean > 1 + _CLOSE:
        return "behind"
    return "no clear difference"


def numbers(found: tuple[float, float, float]) -> str:
    """A ratio and its interval, where it has one."""
    mean, low, high = found
    return f"{mean:.2f}" if math.isnan(low) else f"{mean:.2f}, {low:.2f} to {high:.2f}"


ADVICE = """\
On networks as small as these a gated run took {least_time:.2g} to {most_time:.2g} times as long as
a run of AdamW (median {median_time:.2g}; the most: {slowest}). The wait for its program comes on
top. On larger networks the difference is smaller (`results/gate`).

Over all rows together, the gate with the settings and step of its twin has, over AdamW with its
hold-out, {tuned}. Over a single run of AdamW whose setting is the best one on the other data sets,
the untuned gate has {fixed}. Over the setting that is best on all rows in hindsight, it has
{hindsight}.

**If you use a hold-out**, also try an average of the weights: its error over that of the plain
hold-out has {averaged}. Retraining on all examples has {retrained}. The strongest rival is a
learning rate that falls to zero along a cosine. Kept at its last step, it has {cosine}. Trained
again on all examples with the settings that the hold-out chose, it has {again}; the untuned gate
over that has {over_again}, and the gate by its twin {tuned_over_again}. For wrong labels there are
losses: early-learning regularisation, tuned by a hold-out, has {elr}.

Row by row, the error of one untuned gated run over that of AdamW with a hold-out (means over the
seeds, of the logarithm):

- below 0.95: {ahead};
- from 0.95 to 1.05: {level};
- above 1.05: {behind}.

The same for the gate that its twin tunes:

- below 0.95: {tuned_ahead};
- from 0.95 to 1.05: {tuned_level};
- above 1.05: {tuned_behind}."""

PAGE = """\
# Without clean validation data

People hold out a tenth of their noisy data, try nine settings of AdamW, and let the held-out loss
choose. The error of one gated run that nobody tunes is on average {plain} theirs.

**Use the gate** if your targets are noisy and few, and you have one run and no hold-out: it learns
what single examples agree on, and has {one_run} the error of one run of AdamW (with the setting
that is best on other data). **Do not use it** if you can try nine settings of AdamW with a falling
rate and train again, over which it has {best_rival} the error, or if your targets are clean, where
it learns slowly ({worst_clean}).

Beside these stand runs whose settings and step a *twin* chooses, without held-out data. The numbers
of this page are ratios of errors, and their 95 % intervals over rows. In the table they are to
AdamW with its hold-out. Below 1 is better. "No clear difference" means that the interval holds 1,
or that the ratio is within 1 % of it. It does not mean "as good". *Gate* is the gate of kernels
(`block="kronecker"`). The default of the library, one gate for each output unit, is *gate per
unit*. A *twin* is a second run, whose targets were moved a little at random: how far its outputs
follow shows how much has been learned by heart (`docs/twin.md`). It can choose *z*, which says how
strict the gate is.

{verdict}

{advice}

![Regret of five contenders on every row](../../docs/_static/regret.png)

The picture shows the error of each contender over that of the best one of the five. It is 1 where
a contender is the best. `PYTHONPATH=benchmarks python -m comparison` measures what is missing, and
`python -m comparison.page` writes this page and the pictures from the stored runs. Every number
stands in `results/comparison/rows.md`.

## The contenders that decide

Medians over the fresh seeds (their number in brackets): the share of wrong answers, or the mean
square. The seeds are those that all contenders of the table have. The best of a line is in bold.
The gate takes one run. The others take nine runs of the same number of steps (eight where a twin
needs no law of labels). *Retrained* takes one more.

{deciding}

Beside them: what an oracle would reach that sees the test data, the average of AdamW's weights, and
the gate whose twin chooses the threshold and the step alone.

{beside}

*Best or level* says how often each is the best or within 2 % of it. *Regret* is its error over that
of the best (the median over rows), and *worst* the largest regret. Contenders that resemble each
other share their wins. No test data of these seeds chose anything in this table. The seconds are
those of all its runs on a row (the median over rows), without the wait for compiled programs.

{summary}

## Stronger hold-outs

The same nine settings with a learning rate that falls to zero; a held-out loss that is smoothed
over three evaluations; and a wider grid of sixteen settings. *AdamW, fixed* is one run at the
setting that is best on the other data sets. *Gate, cosine* and *gate, strict* (`z` = 1.4) are one
run each that nobody tunes. Errors over those of AdamW with its hold-out:

{stronger}

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

Equations, where nothing can be held out: the relative error at the last step, not tuned. *Size
unknown* means that the gate was not told how many measurements there are:

{told}

## Other ways to stop and to be robust

Rules that stop one untuned run of AdamW without held-out data:

{stops}

Other optimizers and losses, each with nine settings and a noisy hold-out. SAM takes two gradients a
step. GCE and ELR are for labels, and held-out accuracy chooses for them, because their losses are
no likelihoods:

{peers}

Five-fold cross-validation takes 46 runs:

{folds}

What people use on tables in place of a network of their own, each with its search by three folds:

{references}

## How it scales

![Curves](../../docs/_static/scales.png)

Deliveries of food (package modeldata, {scales_seeds} seeds), whose targets carry noise of one
deviation, and digits with wrong labels. Only one thing changes along each curve. The number of
steps stays the same, but for the curve of epochs, so that more examples are seen fewer times
each.{not_measured} Medians:

{scaled}

The gate of `z` = 1 shuts well enough where a small network makes a few hundred passes. In a wider
network, over more passes and beside hundreds of useless columns it learns the noise slowly, so that
its last step is not its best one. A stricter gate (`z` = 1.4) helps there, but not beside 800
columns, where only `z` = 2 did, on the one seed (100) on which it was tried.

## What a sceptic asks

{objections}

## The contenders

{contenders}
- **{fixed}** (1 run): the one of the nine settings whose last step is best on the other data sets,
  by their test data.
- **{hindsight}** (1 run): the one whose last step is best on all rows, by their test data:
  `{setting}`.

## The protocol

The gate has one fixed setting: `block="kronecker"`, `fitted=0`, `z` = 1, a rate of 1e-3 and no
decay, told the number of examples. It was chosen on the seeds 100 and 101 of digits, tables,
spectra, series and photos, whose other seeds are rows here. The default of `snrgate.adamw` is the
gate per unit, with a decay of 1e-4. The seeds here are 0 to 4. How many of them a row has was
decided by the time that was left, and not beforehand. A row counts from {least} seeds on, and so
does a contender on a row. Others stand in `rows.md` alone. Rows of fewer seeds: {few}. Rows of
which no seed has been measured: {unmeasured}.

The four settings of *gate, tuned by twin* are each the best on some row among twelve that were
tried on the seeds 100 and 101 of `table`, `table-200` and `concrete-noise`. This contender came
late. Before it there was another one with the decays 0 and 10 at a rate of 1e-3, which had a ratio
of 0.91 (0.79 to 1.03, by another interval) on nine rows. It was replaced when these rows showed
that AdamW gains by a rate of 3e-3 and a decay of 1, which the gate had not been offered. *AdamW or
gate, twin* was also added after eight rows had been seen. AdamW's four settings for the twin are
the corners of its grid without the lowest rate, and were not chosen on any row.

The grid of AdamW spans what the study's tuning on clean data has chosen: rates of 1e-4, 5e-4 and
3e-3, and decays of 0, 1 and 10. The gate's rate of 1e-3 is not in it. The contenders of *stronger
hold-outs* came last, after most rows had been seen, and *AdamW, fixed* after all of them. *Gate,
strict* came after the curves had shown where the gate learns noise. Its threshold was chosen among
1, 1.4, 2 and 2.8 on the seed 100 of four points of the curves, and of five rows up to 1.4. A run
has forty evaluations, at which it may be stopped. All contenders of a seed have the same initial
weights. The hold-out chooses by the loss, except where a name says otherwise. Rules that stop one
run look at it after each epoch. A run that diverged counts with the error of knowing nothing. """

ROWS_PAGE = """\
# Every number of the comparison

`PYTHONPATH=benchmarks python -m comparison.page` writes this page. Errors are the share of wrong
answers, or the mean square in units of the variance (for photos, of white). Medians over seeds.
"""
