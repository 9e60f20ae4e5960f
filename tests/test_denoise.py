"""The denoising task and its training: numbers against independent ones."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from snrgate.lab.commands.denoise import denoise, trainings
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.denoise import Denoise, as_task, make_task, noisy_photo, psnr
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.loop import exact_moments, mean_gradient
from snrgate.lab.training.run import Run, together
from snrgate.models.coordinate import CoordinateMLP, Frozen

TINY = Denoise(
    size=24,
    steps=50,
    batch_size=16,
    width=8,
    depth=1,
    frequencies=8,
    eval_every=20,
    checkpoint_every=40,
)


def trees_equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def last_of(settings, tmp_path):
    """The photo, the learners after the last step, and the metrics there."""
    photo, trained = noisy_photo(settings), trainings(settings)
    tasks = dict.fromkeys(trained, as_task(make_task(settings, photo), photo))
    run = Run(trained, tasks, settings, tmp_path, "", label="optimizer", keeps_best=True)
    *_, (step, learners, rows) = together(run, run.start())
    assert step == settings.steps
    return photo, learners, rows


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_psnr_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    clean = rng.random((9, 7, 3), np.float32)
    noisy = clean + 0.3 * rng.standard_normal(clean.shape, np.float32)
    expected = peak_signal_noise_ratio(clean, np.clip(noisy, 0, 1), data_range=1)
    np.testing.assert_allclose(psnr(noisy, clean), expected, rtol=1e-5)


def test_fourier_matrix_is_not_trained():
    model = CoordinateMLP(3, width=4, depth=2, frequencies=5, rngs=nnx.Rngs(params=0))
    _, params, rest = nnx.split(model, nnx.Param, ...)
    assert sum(x.size for x in jax.tree.leaves(params)) == (10 * 4 + 4) + (4 * 4 + 4) + (4 * 3 + 3)
    assert [type(x) for _, x in nnx.to_flat_state(rest)] == [Frozen]


def test_features_are_sines_and_cosines_of_the_frequencies():
    model = CoordinateMLP(1, width=4, depth=0, frequencies=3, fourier_scale=2.0, rngs=nnx.Rngs(0))
    place = np.array([0.3, -0.7], np.float32)
    phase = np.pi * place @ np.asarray(model.frequencies[...])
    features = np.concatenate([np.sin(phase), np.cos(phase)])
    expected = features @ np.asarray(model.head.kernel[...]) + np.asarray(model.head.bias[...])
    np.testing.assert_allclose(model(jnp.asarray(place)), expected, rtol=1e-4)


def test_noise_is_as_strong_as_asked_and_repeatable():
    photo = noisy_photo(Denoise(noise=0.25, seed=3))
    assert (photo.noisy - photo.clean).std() == pytest.approx(0.25, rel=0.03)
    assert np.array_equal(photo.noisy, noisy_photo(Denoise(noise=0.25, seed=3)).noisy)
    assert not np.array_equal(photo.noisy, noisy_photo(Denoise(noise=0.25, seed=4)).noisy)


def test_positions_are_to_scale_and_predictions_in_place():
    photo = noisy_photo(dataclasses.replace(TINY, image="coffee"))
    task = make_task(TINY, photo)
    positions, targets = task.data.inputs, task.data.targets
    assert positions.max(0).tolist() == pytest.approx([15 / 24, 23 / 24])
    assert targets.mean() == pytest.approx(0, abs=1e-5)
    assert targets.std() == pytest.approx(1, abs=1e-5)
    # The loss of a pixel is the standardised error of the prediction in its place.
    errors = (np.asarray(task.predict(task.params)) - photo.noisy) / photo.noisy.std()
    losses = jax.vmap(task.groups[0].loss, (None, 0))(task.params, (positions, targets))
    np.testing.assert_allclose(losses, np.square(errors).mean(-1).ravel(), rtol=1e-4, atol=1e-6)


def test_a_dark_picture_is_learned_like_a_bright_one():
    photo = noisy_photo(TINY)
    dark = photo._replace(noisy=photo.noisy / 16, clean=photo.clean / 16)
    bright, dim = (make_task(TINY, x).data.targets for x in (photo, dark))
    np.testing.assert_allclose(bright, dim, rtol=1e-5, atol=1e-6)


def test_a_picture_of_one_colour_is_learned():
    photo = noisy_photo(TINY)
    flat = photo._replace(noisy=np.full_like(photo.noisy, 0.5))
    assert not np.isnan(make_task(TINY, flat).data.targets).any()


def test_both_optimizers_see_the_same_gradient():
    task = make_task(TINY, noisy_photo(TINY))
    batch = tuple(x[:16] for x in (task.data.inputs, task.data.targets))
    plain, mean, extra = mean_gradient(task.groups)(task.params, (batch,))
    exact, pooled_mean, moments = exact_moments(task.groups, [None], "unit", 0.9)(
        task.params, (batch,)
    )
    assert set(extra) == {"sample_size"}
    assert set(moments) == {"sum_sq_diff_grads", "sample_size"}
    np.testing.assert_allclose(plain, exact, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), mean, pooled_mean
    )


def test_an_open_gate_is_adamw(tmp_path):
    _, learners, rows = last_of(dataclasses.replace(TINY, z=1e-12), tmp_path)
    assert rows["gated"]["gate_fraction"] == pytest.approx(1, abs=1e-6)
    assert rows["gated"]["psnr"] == pytest.approx(rows["adamw"]["psnr"], abs=0.01)
    assert learners["adamw"].best.value >= rows["adamw"]["psnr"]


def test_adamw_is_that_of_optax(tmp_path):
    """The trainer, its settings and its schedule against a loop written out."""
    settings = dataclasses.replace(TINY, optimizers=("adamw",), weight_decay=0.1)
    _, learners, _ = last_of(settings, tmp_path)
    task = make_task(settings, noisy_photo(settings))
    (group,) = task.groups
    tx = optax.adamw(settings.learning_rate, settings.b1, settings.b2, weight_decay=0.1)
    params, state = task.params, tx.init(task.params)
    mean = mean_gradient(task.groups)

    @jax.jit
    def step(params, state, key):
        _, grads, _ = mean(params, (group.sample(key, settings.batch_size),))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for i in range(settings.steps):
        params, state = step(params, state, jax.random.fold_in(jax.random.key(settings.seed), i))
    last = learners["adamw"].state.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), last, params)


def test_the_best_parameters_are_those_of_the_best_evaluation(tmp_path):
    settings = dataclasses.replace(TINY, optimizers=("adamw",), learning_rate=0.3, eval_every=2)
    photo, trained = noisy_photo(settings), trainings(settings)
    task = make_task(settings, photo)
    tasks = dict.fromkeys(trained, as_task(task, photo))
    run = Run(trained, tasks, settings, tmp_path, "", label="optimizer", keeps_best=True)
    seen = [(rows["adamw"], learners["adamw"]) for _, learners, rows in together(run, run.start())]
    row, then = max(seen, key=lambda pause: pause[0]["psnr"])
    best = seen[-1][1].best
    assert row["step"] < settings.steps
    assert trees_equal(best.params, then.state.params)
    assert float(psnr(task.predict(best.params), photo.clean)) == pytest.approx(row["psnr"])


def test_the_gate_learns_the_photo_and_not_the_noise(tmp_path):
    settings = Denoise(
        size=32,
        steps=300,
        batch_size=64,
        learning_rate=1e-2,
        width=32,
        depth=2,
        frequencies=32,
        fourier_scale=1.5,
        eval_every=20,
    )
    photo, learners, rows = last_of(settings, tmp_path)
    adamw, gated = rows["adamw"], rows["gated"]
    assert gated["psnr"] > float(psnr(photo.noisy, photo.clean)) + 3
    assert gated["psnr"] > adamw["psnr"] + 0.5
    assert gated["psnr"] > float(learners["gated"].best.value) - 0.5
    assert adamw["psnr"] < float(learners["adamw"].best.value) - 0.3
    assert adamw["loss"] < gated["loss"]


def test_divergence_is_said(tmp_path):
    settings = dataclasses.replace(TINY, learning_rate=1e30)
    with pytest.raises(InputError, match=r"adamw diverged.*give a smaller learning_rate"):
        denoise(settings, tmp_path / "run")


def test_a_run_leaves_everything_in_its_folder(tmp_path, capsys):
    denoise(TINY, tmp_path / "run")
    out = capsys.readouterr().out
    rows = RunFolder(tmp_path / "run").rows()
    assert [row["step"] for row in rows] == [20, 20, 50, 50]
    assert [row["optimizer"] for row in rows[:2]] == ["adamw", "gated"]
    assert all(("gate_fraction" in row) == (row["optimizer"] == "gated") for row in rows)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["optimizers"]["gated"]["last"] == rows[-1]
    best = max(rows[::2], key=lambda row: row["psnr"])
    assert summary["optimizers"]["adamw"]["best"] == best
    photo = noisy_photo(TINY)
    noisy = peak_signal_noise_ratio(photo.clean, np.clip(photo.noisy, 0, 1), data_range=1)
    assert summary["noisy_psnr"] == pytest.approx(noisy, abs=1e-3)
    flat = np.full_like(photo.clean, photo.noisy.mean())
    mean = peak_signal_noise_ratio(photo.clean, flat, data_range=1)
    assert summary["mean_psnr"] == pytest.approx(mean, abs=1e-3)
    assert "noise of 0.2 is added to camera, shrunk to 24 x 24 from 512 x 512" in out
    assert set(summary["scikit_image"]) == {"wavelets", "total variation", "non-local means"}
    assert min(summary["scikit_image"].values()) > noisy + 2
    assert (tmp_path / "run" / "table.md").read_text() in out
    denoised = (read(tmp_path / "run" / "denoised.png") / 255).astype(np.float32)
    value = peak_signal_noise_ratio(photo.clean[..., 0], denoised, data_range=1)
    assert value == pytest.approx(rows[-1]["psnr"], abs=0.05)
    assert read(tmp_path / "run" / "picture.png").shape[1] > 1000


def test_without_added_noise_there_is_nothing_to_demonstrate():
    with pytest.raises(InputError, match=r"noise = 0 .*: snrgate denoise PHOTO --out FILE"):
        dataclasses.replace(TINY, noise=0.0)


def test_metrics_survive_a_line_cut_off(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append([{"step": 1}, {"step": 2}, {"step": 3}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "psn')
    assert [row["step"] for row in folder.rows()] == [1, 2, 3]
    folder.truncate(2)
    folder.append([{"step": 3}])
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((name, 0) for name in ("steps", "width", "depth", "frequencies", "eval_every")),
        *((name, -1.0) for name in ("noise", "weight_decay", "learning_rate", "z")),
        *((name, float("nan")) for name in ("noise", "learning_rate", "b1", "fourier_scale")),
        ("learning_rate", float("inf")),
        ("learning_rate", 0.0),
        ("b2", 1.0),
        ("noise_decay", 1.0),
        ("batch_size", 1),
        ("seed", -1),
        ("seed", 2**32),
        ("size", -1),
        ("size", 15),
        ("optimizers", ()),
        ("optimizers", ("gated", "gated")),
    ],
)
def test_settings_that_cannot_be_trained_with_are_refused(setting, value):
    with pytest.raises(InputError, match=f"^{setting} = "):
        dataclasses.replace(TINY, **{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("gate", "open"),
        ("block", "layer"),
        ("noise_estimator", "none"),
        ("optimizers", ("sgd",)),
    ],
)
def test_unknown_names_are_refused(setting, value):
    # By the settings themselves, or by the type checker where the tests run under one.
    with pytest.raises(Exception, match=setting):
        dataclasses.replace(TINY, **{setting: value})


def test_metrics_that_do_not_match_the_checkpoint_are_refused(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match="does not reach step 2"):
        folder.truncate(2)
    (tmp_path / "metrics.jsonl").write_text("words\n")
    with pytest.raises(InputError, match="is damaged"):
        folder.truncate(2)
