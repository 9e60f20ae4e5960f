"""What a sceptic asks of the comparison, and the answers, each a number or "we do not know"."""

from collections.abc import Callable, Sequence

from comparison.contenders import DECAYS, GRID, RATES, WIDE_GRID
from comparison.fixed import FIXED, HINDSIGHT
from comparison.numbers import Values, by_data_set, interval, interval_of, ratios
from comparison.rows import ROWS
from comparison.stored import Stored
from comparison.words import numbers, place

__all__ = ["COSINE", "RETRAINED", "objections", "said_ratio", "times"]

UNSEEN = (
    "reviews-30",
    "reviews",
    "speech-20",
    "speech",
    "hepatic-20",
    "hepatic",
    "permeability",
    "permeability-noise",
)
"""Rows of data sets that had no part in any choice of the gate's settings."""
COSINE = "cosine, last by hold-out"
"""AdamW with a schedule, kept at its last step."""
RETRAINED = "cosine, retrained"
"""The same settings, trained again on all examples."""
NETS = ("cnn-40", "cnn-0")
_HELD, _TUNED, _AVERAGED = "AdamW, hold-out", "gate, tuned by twin", "averaged, hold-out"
_PAPER, _PEERS = "paper's gate", ("GCE, hold-out", "ELR, hold-out")

Asked = dict[str, str]
"""Answers by question."""


def said_ratio(values: Values, name: str, other: str = _HELD) -> str:
    """The ratio of two contenders over all rows that have both, in words."""
    count = len(ratios(values, name, other))
    if not count:
        return "a ratio that has not been measured"
    found = interval_of(values, name, other)
    rows = "one row" if count == 1 else f"{count} rows"
    return f"a ratio of {numbers(found)} ({rows}; {place(found)})"


def times(values: Values, name: str, other: str) -> str:
    """The mean ratio of two contenders and its interval, as a part of a sentence."""
    mean, low, high = interval_of(values, name, other)
    return f"{mean:.2f} times ({low:.2f} to {high:.2f})"


def objections(stored: Stored) -> str:
    """The questions and their answers.

    Args:
        stored: what was measured.
    """
    asked = _of_adamw(stored) | _of_the_hold_out(stored) | _of_the_gate(stored) | _of_rows(stored)
    return "\n".join(f"- **{question}** {answer}" for question, answer in asked.items())


def _ratio_on(values: Values) -> Callable[..., str]:
    """A function that says the ratio of two contenders, on all rows or on some."""

    def ratio(name: str, other: str = _HELD, rows: Sequence[str] | None = None) -> str:
        some = {r: v for r, v in values.items() if rows is None or r in rows}
        return said_ratio(some, name, other)

    return ratio


def _of_adamw(stored: Stored) -> Asked:
    """Whether the rival is as strong as it can be."""
    ratio = _ratio_on(stored.counted)
    highest = len(GRID) - (len(RATES) - 1) * (len(DECAYS) - 1)
    return {
        "Is AdamW tuned well?": "An oracle that sees the test data and picks the best step of the "
        f"nine settings has {ratio('AdamW, oracle')}. This is no strict bound, because the runs "
        "with a hold-out train on fewer examples. The hold-out chose the highest rate or the "
        f"strongest decay in {stored.edges[0]} of {stored.edges[1]} cases; {highest} of the nine "
        f"settings have one of them. A wider grid of {len(WIDE_GRID)} settings has "
        f"{ratio('AdamW, wide grid, hold-out')}, and its hold-out chose one of the new edges in "
        f"{stored.wide_edges[0]} of {stored.wide_edges[1]} cases. The untuned gate over it has "
        f"{ratio('gate', 'AdamW, wide grid, hold-out')}.",
        "A run of AdamW that nobody tunes may be as good.": "The gate has one fixed setting, so "
        "here is one for AdamW: that of the nine whose last step is best on the *other* data sets. "
        f"It has {ratio(FIXED)}, and the untuned gate over it {ratio('gate', FIXED)}. The setting "
        f"that is best on all rows in hindsight has {ratio(HINDSIGHT)}, and the untuned gate over "
        f"it {ratio('gate', HINDSIGHT)}. AdamW's customary setting, a rate of 1e-3 without decay, "
        f"has {ratio('AdamW, not tuned')}.",
        "Nobody trains without a schedule.": "AdamW with a rate that falls to zero along a cosine, "
        f"by the same hold-out, has {ratio('cosine, hold-out')}. Where the hold-out chooses the "
        f"settings alone and the last step is kept, it has {ratio(COSINE)}. "
        f"The untuned gate over that has {ratio('gate', COSINE)}: on labels "
        f"{ratio('gate', COSINE, stored.labels)}, on numbers "
        f"{ratio('gate', COSINE, _numbers(stored))}; this division was made after the rows had "
        f"been seen. The gate by its twin over it has {ratio(_TUNED, COSINE)}, and the "
        f"untuned gate with a cosine {ratio('gate, cosine', COSINE)}. The cosine trained again "
        f"on all examples with the same settings has {ratio(RETRAINED)}; the untuned gate over it "
        f"has {ratio('gate', RETRAINED)}, and the gate by its twin {ratio(_TUNED, RETRAINED)}.",
        "Is an average of the weights as good?": "AdamW's average, by hold-out, has "
        f"{ratio(_AVERAGED)}. The untuned gate over it has {ratio('gate', _AVERAGED)}.",
        "There are losses for wrong labels.": "By hold-out, generalised cross-entropy has "
        f"{ratio(_PEERS[0])}, and early-learning regularisation has {ratio(_PEERS[1])}. On the "
        f"same rows the untuned gate has {ratio('gate', rows=_rows(stored, _PEERS[0]))}.",
        "Trees are better on tables.": "A forest has "
        f"{ratio('forest')}, boosting {ratio('boosting')}, and scikit-learn's network "
        f"{ratio('network')}.",
    }


def _of_the_hold_out(stored: Stored) -> Asked:
    """Whether the hold-out is used as well as it can be."""
    ratio = _ratio_on(stored.counted)
    return {
        "A held-out loss on few rows is rough.": "Smoothed over three evaluations, it has "
        f"{ratio('AdamW, smoothed hold-out')}. A tenth of the spectra is 15 examples, a tenth of "
        "the patients 33, and a tenth of the digits 120.",
        "Is the loss the right thing to hold out for labels?": "By the accuracy on the held-out "
        f"labels, AdamW has {ratio('AdamW, hold-out by accuracy')}.",
        "A hold-out wastes a tenth of the data. Why not retrain?": "Retraining on all examples has "
        f"{ratio('AdamW, retrained')}. The untuned gate over the retrained run has "
        f"{ratio('gate', 'AdamW, retrained')}, and the gate by its twin "
        f"{ratio(_TUNED, 'AdamW, retrained')}.",
        "A tenth is too few. Why not five folds?": "Five-fold cross-validation, for five times the "
        f"runs, has {ratio('AdamW, folds')}. AdamW by its twin over it has "
        f"{ratio('AdamW, twin', 'AdamW, folds')}.",
        "Is a random tenth of a series held out?": "No. The windows that are held out share "
        "measurements with windows for training. Besides, the inputs of a noisy series are noisy "
        "for the hold-out and for the twin, while the test inputs are clean. A hold-out of one "
        "stretch was not tried.",
    }


def _of_the_gate(stored: Stored) -> Asked:
    """What in the gate does it, and what it costs."""
    ratio = _ratio_on(stored.counted)
    return {
        "Is the gain due to the twin or to the gate?": "AdamW by a twin has "
        f"{ratio('AdamW, twin')}, and the gate by a twin over AdamW by a twin has "
        f"{ratio(_TUNED, 'AdamW, twin')}. For labels AdamW's twin needs their law, which is that "
        "of a gated run. On numbers no gate takes part in it: AdamW by a twin has "
        f"{ratio('AdamW, twin', rows=_numbers(stored))}, and the gate over it "
        f"{ratio(_TUNED, 'AdamW, twin', _numbers(stored))}.",
        "Is the gate a smaller learning rate in disguise?": "With a tensor's gates all at their "
        f"mean, the error over the gate's has {ratio('mean', 'gate')}.",
        "Does it matter where the gate is open?": "With the gates of a tensor in another order, "
        f"the error over the gate's has {ratio('shuffled', 'gate')}. Where inputs carry nothing, "
        f"the rows are {_each(stored.counted, 'shuffled', 'gate', 'nuisance')}.",
        "Is one threshold right for all?": "No. With `z` = 1.4 in place of 1, the error over the "
        f"gate's has {ratio('gate, strict', 'gate')}: where inputs carry nothing the rows are "
        f"{_each(stored.counted, 'gate, strict', 'gate', 'nuisance')}; where targets are clean "
        f"they are {_each(stored.counted, 'gate, strict', 'gate', 'clean')}. Over AdamW with its "
        f"hold-out it has {ratio('gate, strict')}.",
        "Which gate? There are several.": "The gate per output unit over that of rows and "
        f"columns has {ratio('gate per unit', 'gate')}, and the paper's gate "
        f"{ratio(_PAPER, 'gate')}.",
        "What does it cost?": _cost(stored),
        "What could AdamW do in the time of the twins?": "In the time of the gate with its twin "
        f"AdamW can make about {_in_the_time(stored)} runs. More than sixteen settings were not "
        "tried.",
    }


def _of_rows(stored: Stored) -> Asked:
    """How far the numbers carry."""
    values, ratio = stored.counted, _ratio_on(stored.counted)
    counts = [len(of_row["gate"]) for of_row in values.values()]
    deliveries = _deliveries(stored.scales)
    return {
        "Is 'no clear difference' as good?": "No. The intervals are wide, and a wide interval says "
        f"little. Seed by seed the untuned gate is better than AdamW with its hold-out in "
        f"{_wins(values, 'gate')}, and the gate by its twin in {_wins(values, _TUNED)}.",
        "Several rows share a data set.": "With one mean for each data set, the untuned gate has "
        f"{_of_sets(values, 'gate')}, the gate by its twin {_of_sets(values, _TUNED)}, and the "
        f"averaged AdamW {_of_sets(values, _AVERAGED)}. The untuned gate over the averaged AdamW "
        f"has {_of_sets(values, 'gate', _AVERAGED)}, and over the cosine's last step "
        f"{_of_sets(values, 'gate', COSINE)}. No interval on this page is corrected for the number "
        "of comparisons.",
        "The settings were chosen on these data.": "On data sets that had no part in any choice, "
        f"the untuned gate has {ratio('gate', rows=UNSEEN)}, and the gate by its twin "
        f"{ratio(_TUNED, rows=UNSEEN)}. The deliveries of the curves are such data too, "
        f"but one data set. Over its points the mean ratio of the untuned gate is "
        f"{_mean(deliveries, 'gate')}, and that of the gate by its twin "
        f"{_mean(deliveries, _TUNED)}. On the digits of the curves, whose network has 64 units in "
        f"place of 256, that of the untuned gate is {_mean(_digits(stored.scales), 'gate')}.",
        "How sure are these numbers?": f"Every row has {min(counts)} to {max(counts)} fresh seeds. "
        "The intervals are those of Student's law over the means of rows, so they speak of rows "
        "like these; several rows share a data set. Some test sets are small (65 spectra, 112 "
        "patients), so that one row alone says little. The laser is the same series for every "
        "seed.",
        "Does it hold for convolutions?": "On a small network with GroupNorm the untuned gate has "
        f"{ratio('gate', rows=NETS)}.",
        "For transformers, large models, and augmented data?": "We do not know. The largest "
        "network here has 0.2 million parameters. Language and equations are in the study, "
        "without a hold-out.",
        "Is the noise real?": "Mostly not. The laser and the patients have the noise that they "
        "were measured with. All other noise was made. Labels of single people were used for "
        "preferences (`docs/preferences.md`). Mixup, label smoothing, dropout and ensembles were "
        "not compared.",
        "For noise that depends on the group or on time?": "We do not know. Labels that are wrong "
        f"where a linear model errs give the untuned gate {ratio('gate', rows=('digits-hard',))}.",
    }


def _numbers(stored: Stored) -> tuple[str, ...]:
    """The rows whose targets are no labels."""
    return tuple(row for row in stored.counted if row not in stored.labels)


def _wins(values: Values, name: str) -> str:
    """How many pairs of a row and a seed a contender wins against AdamW with a hold-out."""
    logs = [x for of_row in ratios(values, name, _HELD).values() for x in of_row]
    ties = sum(x == 0 for x in logs)
    level = f" (level in {ties})" if ties else ""
    return f"{sum(x < 0 for x in logs)} of {len(logs)} pairs{level}"


def _of_sets(values: Values, name: str, other: str = _HELD) -> str:
    """The ratio of two contenders, one mean for each data set."""
    found = by_data_set(ratios(values, name, other))
    between = interval(found)
    return f"a ratio of {numbers(between)} ({len(found)} data sets; {place(between)})"


def _each(values: Values, name: str, other: str, kind: str) -> str:
    """The ratio on each row of a kind."""
    found = ratios(values, name, other, kind)
    said = [f"{interval({row: logs})[0]:.2f} ({ROWS[row].title})" for row, logs in found.items()]
    return "; ".join(said) or "not measured"


def _mean(values: Values, name: str) -> str:
    """The mean ratio to AdamW with a hold-out, without an interval."""
    found = ratios(values, name, _HELD)
    return f"{interval(found)[0]:.2f} ({len(found)} points)"


def _deliveries(scales: Values) -> Values:
    """The points of the curves that are of the deliveries, each once."""
    return {
        row: v for row, v in scales.items() if not row.startswith(("share", "columns-of-noise-0"))
    }


def _digits(scales: Values) -> Values:
    """The points of the curves that are digits with wrong labels."""
    return {row: v for row, v in scales.items() if row.startswith("share") and row[-2:] != "-0"}


def _rows(stored: Stored, name: str) -> tuple[str, ...]:
    """The rows on which a contender was measured."""
    return tuple(row for row, of_row in stored.counted.items() if name in of_row)


def _cost(stored: Stored) -> str:
    """The seconds of the contenders, tuning included."""
    names = ("AdamW, not tuned", "gate", _HELD, _TUNED, "AdamW, twin")
    said = ", ".join(f"{name} {stored.seconds[name]:.1f} s" for name in names)
    slowest = max(stored.times, key=stored.times.__getitem__)
    return (
        f"On a machine that did other things too, all runs of a row took (medians): {said}. "
        "Compiling the gate, about ten seconds on these networks, comes on top. Wide inputs cost "
        "most, because the eigenvectors of their noise are computed now and then: "
        f"{stored.times[slowest]:.0f} times a run of AdamW ({ROWS[slowest].title})."
    )


def _in_the_time(stored: Stored) -> int:
    """How many runs AdamW can make while the gate with its twin makes all of its own."""
    return round(stored.seconds[_TUNED] / (stored.seconds[_HELD] / 9))
