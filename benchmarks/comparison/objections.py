"""What a sceptic asks of the comparison, and the answers, each a number or "we do not know"."""

import statistics
from collections.abc import Mapping, Sequence

from comparison.numbers import Values, interval, ratios
from comparison.words import numbers, place
from snrgate.lab.training.results import Key, Result

__all__ = ["median_seconds", "objections"]

UNSEEN = (
    "speech-20",
    "reviews-30",
    "concrete-heavy",
    "reviews",
    "permeability",
    "permeability-noise",
    "hepatic-20",
    "speech",
    "hepatic",
    "cnn-40",
    "cnn-0",
    "digits-hard",
)
"""Rows that had no part in any choice of the gate's settings."""
NETS = ("cnn-40", "cnn-0")


def objections(values: Values, seconds: Mapping[str, float]) -> str:
    """The questions and their answers.

    Args:
        values: the errors of the rows.
        seconds: of one run, by part.
    """

    def ratio(name: str, other: str = "AdamW, hold-out", rows: Sequence[str] = ()) -> str:
        some = {r: v for r, v in values.items() if not rows or r in rows}
        logs = ratios(some, name, other)
        if not logs:
            return "a ratio that has not been measured"
        found = interval(logs)
        many = "one row" if len(logs) == 1 else f"{len(logs)} rows"
        return f"a ratio of {numbers(found)} ({many}: {place(found)})"

    counts = [len(v["gate"]) for v in values.values() if "gate" in v]
    asked = {
        "Is AdamW tuned well?": "An oracle that sees the test data and picks the best step of the "
        f"nine settings has {ratio('AdamW, oracle')}. This is all that tuning and stopping could "
        "still gain within the grid. A finer grid was not tried.",
        "A hold-out wastes a tenth of the data. Why not retrain?": "Retraining on all examples has "
        f"{ratio('AdamW, retrained')}. The untuned gate over the retrained run has "
        f"{ratio('gate', 'AdamW, retrained')}, and the gate by its twin "
        f"{ratio('gate, tuned by twin', 'AdamW, retrained')}.",
        "A tenth is too few. Why not five folds?": "Five-fold cross-validation, for five times the "
        f"runs, has {ratio('AdamW, folds')}. AdamW by its twin over it has "
        f"{ratio('AdamW, twin', 'AdamW, folds')}.",
        "Is the gain due to the twin or to the gate?": "AdamW by a twin has "
        f"{ratio('AdamW, twin')}, and the gate by a twin over AdamW by a twin has "
        f"{ratio('gate, tuned by twin', 'AdamW, twin')}.",
        "Is the gate a smaller learning rate in disguise?": "With a tensor's gates all at their "
        f"mean, the error over the gate's has {ratio('mean', 'gate')}.",
        "Does it matter where the gate is open?": "With the gates of a tensor in another order, "
        f"the error over the gate's has {ratio('shuffled', 'gate')}.",
        "Is an average of the weights as good?": "AdamW's average, by hold-out, has "
        f"{ratio('averaged, hold-out')}. The untuned gate over it has "
        f"{ratio('gate', 'averaged, hold-out')}.",
        "There are losses for wrong labels.": "By hold-out, generalised cross-entropy has "
        f"{ratio('GCE, hold-out')}, early-learning regularisation {ratio('ELR, hold-out')}, and "
        f"the untuned gate on the same rows {ratio('gate', rows=_rows(values, 'GCE, hold-out'))}.",
        "The defaults were chosen on these data.": "On the rows that had no part in any choice, "
        f"the untuned gate has {ratio('gate', rows=UNSEEN)}, and the gate by its twin "
        f"{ratio('gate, tuned by twin', rows=UNSEEN)}.",
        "Which gate? There are several.": "The gate per output unit over that of rows and "
        f"columns has {ratio('gate per unit', 'gate')}. The paper's gate has {ratio(_PAPER, 'gate')}.",
        "Trees are better on tables.": "A forest has "
        f"{ratio('forest')}, boosting {ratio('boosting')}, and scikit-learn's network "
        f"{ratio('network')}.",
        "What does it cost?": _cost(seconds),
        "How sure are these numbers?": f"Every row has {min(counts)} to {max(counts)} fresh seeds. "
        "The intervals draw rows first and then seeds, so they speak of rows like these. A test "
        "set of some tables has 65 to 112 examples, so that one row alone says little.",
        "Does it hold for convolutions?": f"On a small network with GroupNorm the untuned gate has "
        f"{ratio('gate', rows=NETS)}.",
        "For transformers, large models, and augmented data?": "We do not know. The largest "
        "network here has 0.2 million parameters. Language and equations are in the study, "
        "without a hold-out.",
        "For noise that depends on the group or on time?": "We do not know. Labels that are wrong "
        f"where a linear model errs give the untuned gate {ratio('gate', rows=('digits-hard',))}.",
    }
    return "\n".join(f"- **{question}** {answer}" for question, answer in asked.items())


_PAPER = "paper's gate"


def _rows(values: Values, name: str) -> tuple[str, ...]:
    """The rows on which a contender was measured."""
    return tuple(row for row, of_row in values.items() if name in of_row)


def _cost(seconds: Mapping[str, float]) -> str:
    """The seconds of the contenders, tuning included."""
    if not {"AdamW", "kernels with twin"} <= set(seconds):
        return "Not measured."
    plain, pair = seconds["AdamW"], seconds["kernels with twin"]
    gate = pair / 2
    return (
        f"The median run of AdamW took {plain:.1f} s and that of the gate {gate:.1f} s, on a "
        f"machine that did other things too. Nine runs of AdamW therefore take {9 * plain:.0f} s, "
        f"one gated run {gate:.0f} s, and the gate with its twin {4.5 * pair:.0f} s. Compiling the "
        "gate, about ten seconds on these networks, comes on top. Wide inputs cost far more: "
        "the eigenvectors of 751 columns made a gated run of 1,000 steps take 23 s."
    )


def median_seconds(found: Mapping[str, Mapping[Key, Result]]) -> dict[str, float]:
    """The median seconds of a run by part, over all rows; the first of a row compiles."""
    by_part: dict[str, list[float]] = {}
    for runs in found.values():
        for key, run in runs.items():
            by_part.setdefault(key.part, []).append(run["seconds"])
    return {part: statistics.median(times) for part, times in by_part.items()}
