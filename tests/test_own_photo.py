"""A photo of the user's: what it is read as, what is written, and what is estimated."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from snrgate.lab import cli
from snrgate.lab.commands import own_photo as module
from snrgate.lab.commands.own_photo import OwnPhoto, own_photo
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.mixture import mixed
from snrgate.lab.tasks.picture import load, shrink
from snrgate.lab.tasks.restoration import classical, noise_level, stein, wavelets
from snrgate.lab.tasks.tiles import tiles

SMOOTH = np.linspace(0.2, 0.8, 24 * 32).reshape(24, 32)  # no noise, and nothing to take for it


def psnr(pixels, clean):
    return -10 * np.log10(np.mean((np.clip(pixels, 0, 1) - clean) ** 2))


def values(channels, top=255):
    dtype = np.uint8 if top == 255 else np.uint16
    planes = np.stack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1], SMOOTH[::-1, ::-1]], -1)
    return np.rint(planes[..., :channels].squeeze() * top).astype(dtype)


def deep_colour_png(path):
    """16-bit RGB, which Pillow reads and does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values(3, 65535))

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)


MODES = {
    "L": (1, "L"),
    "LA": (2, "LA"),
    "RGB": (3, "RGB"),
    "RGBA": (4, "RGBA"),
    "I;16": (1, "I;16"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_every_kind_of_photo_keeps_its_kind(tmp_path, mode, suffix):
    """Read, and written in another format, with the same pixels and the same alpha."""
    channels, kept = MODES[mode]
    given = values(channels, 65535 if mode == "I;16" else 255)
    Image.fromarray(given).save(tmp_path / "in.png")
    out = tmp_path / f"out.{suffix}"
    own_photo(OwnPhoto(tmp_path / "in.png", out))
    with Image.open(out) as image:
        assert image.mode == kept
        np.testing.assert_array_equal(np.asarray(image), given)


def test_a_palette_becomes_colour_and_keeps_what_is_transparent(tmp_path):
    image = Image.fromarray(values(3)).quantize(8)
    image.save(tmp_path / "in.png", transparency=3)
    own_photo(OwnPhoto(tmp_path / "in.png", tmp_path / "out.tif", sigma=None))
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.tif") as after:
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before.convert("RGBA")))


def test_a_photo_without_noise_is_written_back_byte_by_byte(tmp_path, capsys):
    deep_colour_png(tmp_path / "in.jpg")  # the name says another format than the content
    own_photo(OwnPhoto(tmp_path / "in.jpg", tmp_path / "new folder" / "out.png"))
    written = tmp_path / "new folder" / "out.png"
    assert written.read_bytes() == (tmp_path / "in.jpg").read_bytes()
    assert [path.name for path in written.parent.iterdir()] == ["out.png"]
    assert "written back as it is" in capsys.readouterr().out


def test_orientation_and_profile_are_kept(tmp_path):
    image = Image.fromarray(values(3))
    exif = image.getexif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # to be turned by a quarter
    image.save(tmp_path / "in.jpg", exif=exif, icc_profile=b"a profile", quality=100)
    own_photo(OwnPhoto(tmp_path / "in.jpg", tmp_path / "out.png"))
    with Image.open(tmp_path / "in.jpg") as before, Image.open(tmp_path / "out.png") as after:
        turned = np.rot90(np.asarray(before), -1)
        np.testing.assert_array_equal(np.asarray(after), turned)
        assert after.info["icc_profile"] == b"a profile"
        assert 0x0112 not in after.getexif()
        assert after.getexif()[0x010F] == "a camera"


@pytest.fixture
def complaint(tmp_path, capsys):
    """Denoise a photo that is there; return the one line that is said."""
    Image.fromarray(values(4)).save(tmp_path / "in.png")

    def run(*args):
        assert cli.main(["denoise", *map(str, args)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("snrgate: ")
        assert error.count("\n") == 1
        return error

    return run


def test_what_cannot_be_written_is_said_before_any_work(complaint, tmp_path):
    photo, there = tmp_path / "in.png", tmp_path / "there.png"
    there.write_text("dear")
    assert "is a folder; give a file, such as" in complaint(photo, "--out", tmp_path)
    assert "must end in one of .png" in complaint(photo, "--out", tmp_path / "out.gif")
    assert "must end in one of .png" in complaint(photo, "--out", tmp_path / "out")
    assert "is the photo itself" in complaint(photo, "--out", photo, "--overwrite")
    assert "is there already; give another --out, or" in complaint(photo, "--out", there)
    assert "keeps no transparency" in complaint(photo, "--out", tmp_path / "out.jpg")
    assert "cannot write to" in complaint(photo, "--out", "/proc/none/out.png")
    assert "cannot write to" in complaint(photo, "--out", there / "x.png")
    assert there.read_text() == "dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "there.png"]


def test_what_cannot_be_read_is_said(complaint, tmp_path, monkeypatch):
    tiny, words, photo = tmp_path / "tiny.png", tmp_path / "words.jpg", tmp_path / "in.png"
    Image.new("RGB", (10, 40)).save(tiny)
    words.write_text("words")
    out = "--out", tmp_path / "out.png"
    assert "there is no image" in complaint(tmp_path / "none.jpg", *out)
    assert "it needs at least 16 pixels a side" in complaint(tiny, *out)
    assert "not a picture that Pillow can read" in complaint(words, *out)
    assert "sigma = 0.0 must be more than 0" in complaint(photo, *out, "--sigma", "0")
    assert "crop = 3 must be 0, or at least 16" in complaint(photo, *out, "--crop", "3")
    monkeypatch.setattr("snrgate.lab.memory.available", lambda: 1024)
    assert "of 32 x 24 takes about 0.0 GiB of memory" in complaint(photo, *out)


@pytest.mark.parametrize(
    ("line", "own"),
    [
        ("my.jpg --out clean.png", True),
        ("--out clean.png my.jpg", True),
        ("my.jpg", True),
        ("my.jpg --speed 3", True),  # and refused there
        ("", False),
        ("--out folder", False),
        ("--noise 0.1", False),
        ("--optimizers adamw gated --out folder", False),
        ("--out", False),
        ("--help", False),
    ],
)
def test_a_photo_among_the_arguments_is_seen(line, own):
    assert cli._names_photo(line.split()) == own


def test_a_photo_is_denoised_at_its_size_with_its_alpha(tmp_path, capsys, monkeypatch):
    """With a short training: the result is at least that of the best other method."""
    monkeypatch.setattr(module, "_STEPS", 40)
    clean = shrink(load("chelsea").pixels, 64)
    noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape)
    alpha = np.linspace(0, 1, clean[..., :1].size).reshape(clean[..., :1].shape)
    given = np.rint(255 * np.clip(np.concatenate((noisy, alpha), -1), 0, 1)).astype(np.uint8)
    Image.fromarray(given).save(tmp_path / "in.png")
    assert cli.main(["denoise", str(tmp_path / "in.png"), "--out", str(tmp_path / "out.png")]) == 0
    with Image.open(tmp_path / "out.png") as image:
        result = np.asarray(image)
    np.testing.assert_array_equal(result[..., 3], given[..., 3])
    before, after = (psnr(x[..., :3] / 255, clean) for x in (given, result))
    assert after > before + 4
    names = {"in.png", "out.png", "out-compare.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    said = capsys.readouterr().out
    assert said.index("of training on this machine") < said.index("| the result")
    assert "By the estimate" in said


@pytest.mark.parametrize("shape", [(16, 16), (40, 100), (101, 33), (64, 64)])
def test_tiles_cover_a_picture_and_join_to_it(shape):
    picture = np.random.default_rng(0).random((*shape, 3), np.float32)
    layout = tiles(shape, 32, 6)
    parts = [picture[layout.part(n)] for n in range(len(layout.corners))]
    assert {part.shape for part in parts} == {(*layout.side, 3)}
    assert max(layout.side) <= 32
    np.testing.assert_allclose(layout.joined(parts), picture, rtol=1e-5)
    seen = np.zeros(shape, bool)  # by any tile, one by one
    held = np.random.default_rng(1).random(layout.side) < 0.5
    for number in range(len(layout.corners)):
        seen[layout.part(number)] |= ~held
    np.testing.assert_array_equal(layout.held_out(held), ~seen)


def test_the_noise_is_estimated_and_a_flat_photo_has_none():
    rng = np.random.default_rng(0)
    for sigma in (0.02, 0.1):
        noisy = SMOOTH[..., None] + sigma * rng.standard_normal((24, 32, 3))
        assert noise_level(noisy) == pytest.approx(sigma, rel=0.15)
    assert noise_level(np.full((20, 20, 3), 0.5, np.float32)) == 0


def test_the_estimated_error_is_that_from_the_clean_photo():
    """The mean over draws of the noise, for every method, within a tenth of the noise."""
    clean = gaussian_filter(np.random.default_rng(0).random((48, 48, 3)), (2, 2, 0))
    clean = ((clean - clean.min()) / np.ptp(clean)).astype(np.float32)
    sigma, gaps = 0.1, []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        noisy = (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)
        results = [classical(noisy, sigma)["total variation"]]
        smoothed, errors = stein(lambda y: gaussian_filter(y, (1, 1, 0)), noisy, sigma, seed)
        results = [(r.pixels, r.errors) for r in results] + [(smoothed, errors)]
        gaps.append([np.mean((x - clean) ** 2) - e.mean() for x, e in results])
    assert np.all(np.abs(np.mean(gaps, 0)) < 0.1 * sigma**2)


def test_the_better_of_two_results_has_the_greater_share():
    clean = shrink(load("coffee").pixels, 64)
    rng = np.random.default_rng(0)
    noisy = (clean + 0.1 * rng.standard_normal(clean.shape)).astype(np.float32)
    held_out = rng.random(clean.shape[:2]) < 0.3
    whole = slice(None), slice(None)
    perfect = mixed(noisy, clean, held_out, 0.1, whole)
    useless = mixed(noisy, np.zeros_like(clean), held_out, 0.1, whole)
    assert perfect.share > 0.7
    assert useless.share < perfect.share - 0.2
    for mixture in (perfect, useless):
        error = np.mean((mixture.pixels - clean) ** 2)
        assert mixture.error == pytest.approx(error, abs=0.1 * 0.1**2)
        assert error < 1.1 * np.mean((wavelets(noisy, 0.1) - clean) ** 2)


def test_settings_name_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match=r"sigma = 2\.0"):
        OwnPhoto(tmp_path, sigma=2.0)
