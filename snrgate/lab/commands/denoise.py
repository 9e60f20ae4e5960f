"""``snrgate denoise`` without a photo: a demonstration on a photo to which noise is added."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from snrgate.lab.commands.photo_report import as_markdown, panels, run_picture, summarise
from snrgate.lab.tasks.denoise import Denoise, NoisyPhoto, as_task, make_task, noisy_photo, psnr
from snrgate.lab.tasks.picture import encode
from snrgate.lab.tasks.restoration import classical, noise_level
from snrgate.lab.training.figures import to_png
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.optimizers import AdamW, Gated
from snrgate.lab.training.run import Learner, Run, run
from snrgate.lab.training.size import refuse_large_network
from snrgate.lab.training.train import Training

__all__ = ["denoise", "trainings"]


class OftenAtFirst(Training[Denoise, AdamW]):
    """A training with more evaluations in the first tenth, where AdamW has its best step."""

    def next_evaluation(self, step: int) -> int:
        """The first step after this one at which the metrics are measured."""
        every = self.eval_every * (1 if step < self.steps // 10 else 5)
        return min(step + every, self.steps)


def trainings(settings: Denoise) -> dict[str, Training]:
    """The trainings of a run by the names of their optimizers.

    Args:
        settings: settings of the run.
    """
    momentary = settings.noise_estimator == "instantaneous"
    names = ("learning_rate", "weight_decay", "b1", "b2")
    shared: dict[str, Any] = {name: getattr(settings, name) for name in names}
    optimizers = {
        "adamw": AdamW(**shared, learning_rate_warmup=0),
        "gated": Gated(
            **shared,
            learning_rate_warmup=0,
            gate=settings.gate,
            block=settings.block,
            noise=settings.noise_estimator,
            noise_decay=settings.noise_decay,
            signal_decay=None if momentary else settings.signal_decay,
            fitted=settings.fitted,
            z=settings.z,
        ),
    }
    names = ("steps", "batch_size", "eval_every", "checkpoint_every", "seed")
    of_run = {name: getattr(settings, name) for name in names}
    return {
        name: OftenAtFirst(settings, optimizers[name], **of_run) for name in settings.optimizers
    }


def denoise(settings: Denoise, out: Path, *, resume: bool = False) -> None:
    """Train, and write the results into the folder too.

    These are ``summary.json``, ``table.md``, ``picture.png`` and ``denoised.png``. The last one is
    the result of the last optimizer, at the range of values of the file that was given.

    Args:
        settings: settings of the run.
        out: the folder of the run.
        resume: whether to continue the run in that folder.

    Raises:
        InputError: the same errors as :func:`snrgate.lab.training.run.run`.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    photo = noisy_photo(settings)
    refuse_large_network(settings, partial(make_task, settings, photo))
    fit = make_task(settings, photo)
    trained = trainings(settings)
    what = Run(
        trained,
        dict.fromkeys(trained, as_task(fit, photo)),
        settings,
        out,
        "snrgate denoise",
        label="optimizer",
        keeps_best=True,
    )

    def finish(folder: RunFolder, learners: dict[str, Learner]) -> str:
        last = {n: np.asarray(fit.predict(learners[n].state.params)) for n in trained}
        best = {n: np.asarray(fit.predict(x.best.params)) for n, x in learners.items() if x.best}
        return _write_results(photo, folder, last, best)

    _say_what(settings, photo)
    run(what, finish, resume=resume)


def _write_results(
    photo: NoisyPhoto,
    folder: RunFolder,
    last: dict[str, np.ndarray],
    best: dict[str, np.ndarray],
) -> str:
    """Write the pictures of the networks at their last and best steps, and the numbers."""
    rows = folder.rows()
    summary = summarise(photo, rows)
    others = classical(photo.noisy, noise_level(photo.noisy))
    summary["scikit_image"] = {
        name: float(psnr(other.pixels, photo.clean)) for name, other in others.items()
    }
    table = as_markdown(summary)
    folder.write_json("summary.json", summary)
    folder.write("table.md", table.encode())
    folder.write_png("denoised.png", encode(list(last.values())[-1], photo.levels))
    folder.write(
        "picture.png", to_png(run_picture(panels(photo, summary, last, best), rows, summary))
    )
    return f"\n{table}\nSee picture.png. "


def _say_what(settings: Denoise, photo: NoisyPhoto) -> None:
    height, width, _ = photo.noisy.shape
    shrunk = ""
    if (height, width) != photo.original:
        before = f"{photo.original[1]} x {photo.original[0]}"
        shrunk = f", shrunk to {width} x {height} from {before} (--size 0 keeps the size)"
    print(
        f"A demonstration: noise of {settings.noise:g} is added to {settings.image}{shrunk}. For a "
        "photo of yours, which gets no noise: snrgate denoise PHOTO --out FILE"
    )
