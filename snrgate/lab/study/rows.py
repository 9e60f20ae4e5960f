"""The rows of the study: a task, what is claimed for it, and how long it is trained."""

import dataclasses

from snrgate.lab.study.controls import Control
from snrgate.lab.study.peers import (
    Cautious,
    CosineAdamW,
    CosineGated,
    FiniteAlgorithm1,
    FloorGated,
    FreshGated,
    Grokfast,
    Muon,
    OrthoGrad,
    RowNormLion,
    Sam,
)
from snrgate.lab.tasks.chaos import Chaos
from snrgate.lab.tasks.digits import Digits
from snrgate.lab.tasks.division import Division
from snrgate.lab.tasks.language import Language
from snrgate.lab.tasks.photo import Photo
from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.tasks.reasoning import Reasoning
from snrgate.lab.tasks.table import Table
from snrgate.lab.training.optimizers import AdamW, Algorithm1, Gated
from snrgate.lab.training.train import Training

__all__ = ["ABLATIONS", "ADAMW", "PEERS", "ROWS", "Row"]

ADAMW = ("adamw-untuned", "adamw", "adamw-oracle", "adamw-fastest")
"""AdamW without tuning, and AdamW tuned for its last step, its best step and its speed."""

PEERS: dict[str, AdamW] = {
    "algorithm-1": Algorithm1(),
    "algorithm-1-finite": FiniteAlgorithm1(),
    "cautious": Cautious(),
    "grokfast": Grokfast(),
    "lion-row-norm": RowNormLion(),
    "muon": Muon(),
    "orthograd": OrthoGrad(),
    "sam": Sam(),
    "adamw-cosine": CosineAdamW(),
    "gated-cosine": CosineGated(),
    "gated-unsized": Gated(finite=False),
    "gated-fresh": FreshGated(),
    "gated-floor": FloorGated(),
}
"""Other optimizers by name. Each is tuned over the same grid as AdamW.

The first two are the paper's. The last five are AdamW with a schedule, the gate with a schedule,
the gate that is not told how many examples there are, the gate that is told that none comes back,
and a gate that never shuts.
"""

ABLATIONS: dict[str, Gated] = {
    "streaming": Gated(noise="streaming"),
    "instantaneous": Gated(noise="instantaneous"),
    "hard": Gated(gate="hard"),
    "snr": Gated(gate="snr"),
    "momentary": Gated(signal_decay=0.0),
    "strict": Gated(fitted=0.0),
    "per-parameter": Gated(block="parameter"),
    "unsized": Gated(finite=False),
    "ungated-decay": Gated(gate_weight_decay=False),
    "shuffled": Control(kind="shuffled"),
    "mean": Control(kind="mean"),
}
"""The default with one thing changed, at the learning rate and weight decay of the default.

The last two are the controls (:class:`snrgate.lab.study.controls.Control`).
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the study."""

    title: str
    """Name of what is learned."""
    kind: str
    """Kind of the row, which says what is asked of the gate.

    "noisy": its last step is as good as AdamW's best. "clean": its last step is at most 1 % worse
    than AdamW's. "grokking": it takes no more steps than AdamW. "confusing": it reaches 90 % where
    AdamW stays below 50 %.
    """
    base: Training
    """Training with the task, the steps and the batch; its optimizer is AdamW without tuning."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    """Learning rates of the grid."""
    decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    """Weight decays of the grid."""
    peers: tuple[str, ...] = ()
    """Names of the row's :data:`PEERS`."""
    ablations: tuple[str, ...] = ()
    """Names of the row's :data:`ABLATIONS`."""
    tuned_on: int = 2
    """Number of tuning seeds that are used; one where a run takes minutes."""
    paper: str = "-"
    """Claim of the paper about this row."""
    reach: float | None = None
    """Value of the metric up to which steps are counted."""

    def contenders(self) -> tuple[str, ...]:
        """The names of all contenders that are measured."""
        gated = ("gated-untuned", "gated", "gated-fastest")
        fast = (f"{name}-fastest" for name in self.peers)
        return (*ADAMW, *gated, *self.peers, *fast, *self.ablations)

    def tuned(self) -> tuple[str, ...]:
        """The names of the contenders that are tuned, each over the same grid."""
        return ("adamw", "gated", *self.peers)

    def untuned(self) -> dict[str, Training]:
        """AdamW and the gate, at a learning rate and weight decay that nobody has chosen.

        There are none where a rule is to be found, because without tuning neither of them finds
        it by the last step.
        """
        if self.kind not in ("noisy", "clean"):
            return {}
        plain = self.base.optimizer
        gated = self._with(Gated(), plain.learning_rate, plain.weight_decay)
        return {"adamw-untuned": self.base, "gated-untuned": gated}

    def grid(self, name: str) -> dict[str, Training]:
        """The runs among which a contender is tuned, by name.

        Args:
            name: "adamw", "gated" or a peer's.
        """
        optimizer = {"adamw": AdamW(), "gated": Gated(), **PEERS}[name]
        return {
            f"{name}-lr{rate:g}-wd{decay:g}": self._with(optimizer, rate, decay)
            for rate in self.rates
            for decay in self.decays
        }

    def ablation(self, name: str, rate: float, decay: float) -> Training:
        """The default with one thing changed.

        Args:
            name: of :data:`ABLATIONS`.
            rate: the learning rate of the gated run.
            decay: its weight decay.
        """
        return self._with(ABLATIONS[name], rate, decay)

    def _with(self, optimizer: AdamW, rate: float, decay: float) -> Training:
        plain = self.base.optimizer
        settings = {"learning_rate": rate, "weight_decay": decay, "b1": plain.b1, "b2": plain.b2}
        if isinstance(optimizer, CosineAdamW):
            settings["decay_steps"] = self.base.steps
        if isinstance(optimizer, (FiniteAlgorithm1, FloorGated)):
            settings["batch_size"] = self.base.batch_size
        optimizer = dataclasses.replace(optimizer, **settings)  # type: ignore[arg-type]
        return dataclasses.replace(self.base, optimizer=optimizer)


def _division(
    title: str,
    kind: str,
    task: Division,
    steps: int = 2000,
    rates: tuple[float, ...] = (5e-3, 1e-2),
    decays: tuple[float, ...] = (1.0, 2.0),
    **more: object,
) -> Row:
    until = 0.95 if kind == "grokking" else None
    plain = AdamW(1e-3, 1.0, b2=0.98)
    return Row(
        title,
        kind,
        Training(task, plain, steps=steps, batch_size=512, eval_every=50, until=until),
        rates=rates,
        decays=decays,
        tuned_on=1,
        reach=until,
        **more,  # type: ignore[arg-type]
    )


def _digits(
    wrong: float, kind: str, decays: tuple[float, ...] = (0.0, 0.3, 3.0, 10.0), **more: object
) -> Row:
    base = Training(Digits(wrong=wrong), AdamW(1e-3), steps=2000, batch_size=128, eval_every=50)
    labels = f"{wrong:.0%} wrong labels" if wrong else "clean"
    return Row(f"digits, {labels}", kind, base, decays=decays, **more)  # type: ignore[arg-type]


def _chaos(
    title: str,
    task: Chaos,
    kind: str = "noisy",
    peers: tuple[str, ...] = (),
    ablations: tuple[str, ...] = (),
) -> Row:
    return Row(
        title,
        kind,
        Training(task, AdamW(1e-3), steps=3000, batch_size=128),
        decays=(0.0, 0.1, 1.0, 3.0),
        peers=peers,
        ablations=ablations,
        paper="last step below AdamW's best" if kind == "noisy" else "-",
    )


def _photo(
    title: str,
    task: Photo,
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3),
    peers: tuple[str, ...] = (),
    ablations: tuple[str, ...] = (),
) -> Row:
    return Row(
        title,
        "noisy",
        Training(task, AdamW(1e-3), steps=1500, batch_size=512, eval_every=20),
        rates=rates,
        decays=(0.0, 0.1, 1.0, 3.0, 10.0, 30.0),
        tuned_on=1,
        peers=peers,
        ablations=ablations,
        paper="last step above AdamW's best",
    )


def _pinn(title: str, task: Pinn, **more: object) -> Row:
    return Row(
        title,
        "noisy",
        Training(task, AdamW(1e-3), steps=8000, batch_size=128),
        decays=(0.0,),
        peers=("gated-unsized", "gated-fresh"),
        **more,  # type: ignore[arg-type]
    )


_ALL = tuple(ABLATIONS)
_COSINE = ("adamw-cosine", "gated-cosine")
_PAPER = ("algorithm-1", "algorithm-1-finite")
_MEMORY = ("momentary", "strict")
ROWS: dict[str, Row] = {
    "digits-40": _digits(
        0.4, "noisy", ablations=_ALL, peers=(*_PAPER, "sam", "cautious", *_COSINE)
    ),
    "digits-20": _digits(0.2, "noisy", paper="held-out loss diverges under AdamW only"),
    "digits-0": _digits(
        0.0,
        "clean",
        rates=(3e-4, 1e-3, 3e-3),
        decays=(0.0, 0.3, 3.0),
        ablations=("streaming", *_MEMORY),
        peers=_PAPER,
    ),
    "table": Row(
        "diabetes table",
        "noisy",
        Training(Table(), AdamW(1e-3), steps=2000, batch_size=64, eval_every=20),
        decays=(0.0, 0.1, 1.0, 3.0, 10.0, 30.0),
        peers=(*_PAPER, "sam", "cautious"),
        ablations=_ALL,
    ),
    "lorenz-10": _chaos("Lorenz-63, noise 0.1", Chaos(noise=0.1)),
    "lorenz-20": _chaos(
        "Lorenz-63, noise 0.2",
        Chaos(noise=0.2),
        peers=(*_PAPER, *_COSINE),
        ablations=("streaming", *_MEMORY),
    ),
    "lorenz-40": _chaos("Lorenz-63, noise 0.4", Chaos(noise=0.4)),
    "laser-0": _chaos(
        "Santa Fe laser, as measured",
        Chaos("laser", noise=0.0),
        kind="clean",
        ablations=_MEMORY,
    ),
    "laser-20": _chaos("Santa Fe laser, noise 0.2", Chaos("laser", noise=0.2)),
    "advection": _pinn(
        "advection, 256 noisy points",
        Pinn(),
        paper="0.40 in 2.4 times fewer steps than tuned AdamW",
        reach=0.4,
        ablations=("streaming",),
    ),
    "advection-64": _pinn(
        "advection, 64 very noisy points",
        Pinn(noise=1.0, measurements=64, initial_weight=100.0),
    ),
    "burgers": _pinn("Burgers, 64 noisy points", Pinn("burgers", measurements=64)),
    "reasoning": Row(
        "arithmetic in six steps",
        "clean",
        Training(Reasoning(), AdamW(1e-3), steps=800, batch_size=64, eval_every=50),
        rates=(3e-4, 1e-3, 3e-3),
        decays=(0.0,),
        peers=("algorithm-1",),
        ablations=("streaming",),
    ),
    "language": Row(
        "characters of a manual",
        "clean",
        Training(Language(), AdamW(1e-3), steps=400, batch_size=32, eval_every=100),
        rates=(1e-3, 3e-3, 1e-2),
        decays=(0.0,),
        tuned_on=1,
    ),
    "camera-10": _photo("camera, noise 0.1", Photo("camera", noise=0.1)),
    "camera-20": _photo(
        "camera, noise 0.2",
        Photo("camera"),
        peers=_PAPER,
        ablations=("streaming", *_MEMORY, "shuffled", "mean"),
    ),
    "chelsea-20": _photo("chelsea, colour, noise 0.2", Photo("chelsea")),
    "camera-poisson": _photo("camera, Poisson-Gaussian", Photo("camera", photons=20.0, noise=0.1)),
    "camera-siren": _photo(
        "camera, noise 0.2, SIREN", Photo("camera", network="siren"), rates=(3e-5, 1e-4, 3e-4, 1e-3)
    ),
    "division-25": _division(
        "a / b mod 97, 25 %",
        "grokking",
        Division(),
        peers=("gated-floor", "gated-fresh", "muon", "grokfast", "lion-row-norm", "orthograd"),
        paper="5,950 steps, AdamW 29,450",
    ),
    "division-slow": _division(
        "a / b mod 97, 25 %, learning rate 1e-3",
        "grokking",
        Division(),
        steps=8000,
        rates=(1e-3,),
        decays=(1.0,),
        peers=("algorithm-1-finite",),
        paper="5,950 steps, AdamW 29,450",
    ),
    "division-50": _division(
        "a / b mod 97, 50 %",
        "grokking",
        Division(train_fraction=0.5),
        peers=("gated-floor", "gated-fresh"),
    ),
    "division-wrong": _division(
        "a / b mod 97, 50 %, 30 % of them wrong",
        "confusing",
        Division(train_fraction=0.5, wrong=0.3),
        rates=(2e-3, 5e-3),
        decays=(2.0, 5.0, 10.0),
        peers=("gated-floor",),
    ),
}
"""The rows by name, small ones first."""
