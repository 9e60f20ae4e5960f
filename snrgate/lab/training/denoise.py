"""The denoising run: into a folder, with a picture, resumable."""

import shlex
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from snrgate.lab.errors import InputError
from snrgate.lab.tasks.denoise import Denoise, DenoiseTask, NoisyPhoto, make_task, noisy_photo
from snrgate.lab.tasks.picture import encode
from snrgate.lab.training.checkpoint import open_checkpoints
from snrgate.lab.training.compare import Learner, Row, fit, start, step_of
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.interrupt import Stopped, deferred_interrupts
from snrgate.lab.training.plots import Panel, run_picture, to_png
from snrgate.lab.training.progress import progress_bar
from snrgate.lab.training.report import LABELS, as_markdown, summarise

__all__ = ["run"]


def run(settings: Denoise, out: Path, *, resume: bool = False) -> None:
    """Train, leaving everything in a folder, and say what came of it on standard output.

    The folder gets ``config.json``, ``metrics.jsonl``, ``table.md``, ``summary.json``,
    ``picture.png``, ``denoised.png`` (by the last of the optimizers, at the range of values of
    the file that came in) and ``checkpoints``.

    Args:
        settings: of the run.
        out: the folder.
        resume: continue the run in that folder, to the same numbers as if it had not stopped.

    Raises:
        InputError: something that was given cannot be used, or the folder cannot be written.
        Stopped: on SIGINT or SIGTERM, with the run saved.
    """
    began = time.perf_counter()
    photo = noisy_photo(settings)
    task = make_task(settings, photo)
    folder = RunFolder(out)
    again = f"continue with: snrgate denoise --out {shlex.quote(str(out))} --resume"
    kept = ""
    try:
        (folder.reopen if resume else folder.start)(settings, zlib.crc32(photo.noisy.tobytes()))
        kept = f"; the run is kept up to its last checkpoint, {again}"
        _say_what(photo)
        learners = _train(settings, task, photo, folder, again)
        _write_results(settings, task, photo, folder, learners)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write to {out}: {reason}{kept}") from error
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, f"interrupted{kept}") from None
    print(f"Took {time.perf_counter() - began:.0f} s. Everything is in {out}; see picture.png.")


def _train(
    settings: Denoise, task: DenoiseTask, photo: NoisyPhoto, folder: RunFolder, again: str
) -> dict[str, Learner]:
    with (
        open_checkpoints(folder.path / "checkpoints") as checkpoints,
        deferred_interrupts() as interrupted,
    ):
        begun = learners = checkpoints.restore(start(settings, task, photo))
        before = step_of(begun)
        folder.truncate(before)
        with progress_bar(settings.steps, before) as show:
            for step, learners, rows in fit(settings, task, photo, begun):
                folder.append(rows)
                show(step, _in_short(rows))
                due = step // settings.checkpoint_every > before // settings.checkpoint_every
                number = interrupted()
                if due or number or step == settings.steps:
                    checkpoints.save(step, learners)
                before = step
                if number and step < settings.steps:
                    raise Stopped(number, f"stopped at step {step}, saved; {again}")
    return learners


def _say_what(photo: NoisyPhoto) -> None:
    height, width, channels = photo.noisy.shape
    if (height, width) != photo.original:
        print(
            f"The picture of {photo.original[1]} x {photo.original[0]} was shrunk to "
            f"{width} x {height}; --size sets the longer side, --size 0 keeps it as it is."
        )
    if photo.clean is None:
        kind = "grey" if channels == 1 else "colour"
        print(f"No noise added: the {width} x {height} {kind} picture is denoised as it is.")


def _in_short(rows: list[Row]) -> str:
    key, unit = ("psnr", " dB") if "psnr" in rows[0] else ("loss", " loss")
    return ", ".join(f"{LABELS[row['optimizer']]} {row[key]:.2f}{unit}" for row in rows)


def _write_results(
    settings: Denoise,
    task: DenoiseTask,
    photo: NoisyPhoto,
    folder: RunFolder,
    learners: dict[str, Learner],
) -> None:
    final = {name: np.asarray(task.predict(x.state.params)) for name, x in learners.items()}
    rows = folder.rows()
    summary = summarise(photo, rows)
    table = as_markdown(summary)
    folder.write_json("summary.json", summary)
    folder.write("table.md", table.encode())
    folder.write_png("denoised.png", encode(final[settings.optimizers[-1]], photo.levels))

    levels = {}
    if photo.clean is not None:
        levels = {"noisy photo": summary["noisy_psnr"], "its mean colour": summary["mean_psnr"]}
    panels = _panels(photo, summary, learners, final)
    folder.write("picture.png", to_png(run_picture(panels, rows, levels)))
    print(f"\n{table}")


def _panels(
    photo: NoisyPhoto,
    summary: dict[str, Any],
    learners: dict[str, Learner],
    final: dict[str, np.ndarray],
) -> list[Panel]:
    if photo.clean is None:
        given = Panel(photo.noisy, "the picture given")
        return [given, *(Panel(final[n], f"{LABELS[n]}, last step") for n in LABELS if n in final)]
    panels = [
        Panel(photo.clean, "clean\n(never seen in training)"),
        Panel(photo.noisy, f"noisy\n{summary['noisy_psnr']:.2f} dB"),
    ]
    for name, results in summary["optimizers"].items():
        best = learners[name].best
        if name == "adamw" and best is not None:
            caption = f"AdamW, best step {best.step}\n{best.psnr:.2f} dB (by oracle)"
            panels.append(Panel(np.asarray(best.pixels), caption))
        last = results["last"]
        caption = f"{LABELS[name]}, last step {last['step']}\n{last['psnr']:.2f} dB"
        panels.append(Panel(final[name], caption))
    return panels
