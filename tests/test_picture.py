"""Pictures of every kind in, the same kind out."""

import numpy as np
import pytest
from PIL import Image

from snrgate.lab.errors import InputError
from snrgate.lab.tasks.picture import MIN_SIDE, PHOTOS, encode, load, read, shrink

HEIGHT, WIDTH = 18, 20


def ramp(top: int, dtype: type, channels: int | None = None) -> np.ndarray:
    shape = (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    return np.linspace(0, top, int(np.prod(shape))).astype(dtype).reshape(shape)


@pytest.mark.parametrize("name", PHOTOS)
def test_every_shipped_photo_loads(name):
    picture = load(name)
    pixels, levels = picture.pixels, picture.levels
    assert pixels.dtype == np.float32
    assert pixels.ndim == 3
    assert pixels.shape[-1] in (1, 3)
    assert 0 <= pixels.min() < 0.5 < pixels.max() <= 1
    assert levels == 255


@pytest.mark.parametrize(
    ("mode", "suffix", "channels", "levels"),
    [
        ("1", "png", 1, 255),
        ("L", "png", 1, 255),
        ("LA", "png", 1, 255),
        ("P", "png", 3, 255),
        ("RGB", "png", 3, 255),
        ("RGB", "jpg", 3, 255),
        ("RGBA", "png", 3, 255),
        ("CMYK", "tif", 3, 255),
        ("I;16", "png", 1, 65535),
        ("I;16", "tif", 1, 65535),
        ("F", "tif", 1, 65535),
    ],
)
def test_every_mode_is_read(tmp_path, mode, suffix, channels, levels):
    if mode == "I;16":
        image = Image.fromarray(ramp(65535, np.uint16))
    elif mode == "F":
        image = Image.fromarray(ramp(1, np.float32))
    else:
        image = Image.fromarray(ramp(255, np.uint8, 3)).convert(mode)
    path = tmp_path / f"picture.{suffix}"
    image.save(path)
    picture = load(str(path))
    assert picture.pixels.shape == (HEIGHT, WIDTH, channels)
    assert picture.levels == levels
    assert picture.pixels.min() >= 0
    assert 0.9 < picture.pixels.max() <= 1


@pytest.mark.parametrize(
    "values", [ramp(255, np.uint8), ramp(255, np.uint8, 3), ramp(65535, np.uint16)]
)
def test_what_is_read_is_written_back_unchanged(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "in.png")
    picture = read(tmp_path / "in.png")
    encode(picture.pixels, picture.levels).save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        np.testing.assert_array_equal(np.asarray(image), values)


def test_values_beyond_white_are_clipped_not_wrapped():
    image = encode(np.array([[[-1.0], [2.0]]]), 255)
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [0, 255]


def test_transparency_is_laid_on_white(tmp_path):
    values = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    values[: HEIGHT // 2, :, 3] = 255
    Image.fromarray(values).save(tmp_path / "in.png")
    pixels = load(str(tmp_path / "in.png")).pixels
    assert (pixels[: HEIGHT // 2] == 0).all()
    assert (pixels[HEIGHT // 2 :] == 1).all()


def test_orientation_mark_is_obeyed(tmp_path):
    image = Image.fromarray(ramp(255, np.uint8, 3))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "in.jpg", exif=exif)
    assert load(str(tmp_path / "in.jpg")).pixels.shape == (WIDTH, HEIGHT, 3)


def test_shrinking_keeps_the_shape_and_the_mean():
    pixels = load("coffee").pixels
    small = shrink(pixels, 60)
    assert small.shape == (40, 60, 3)
    np.testing.assert_allclose(small.mean(), pixels.mean(), atol=0.01)
    assert shrink(pixels, 0) is pixels
    assert shrink(small, 96) is small
    assert shrink(np.zeros((1000, 20, 1)), 100).shape == (100, MIN_SIDE, 1)


def truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:500])


def floats_beyond_one(path):
    Image.fromarray(ramp(2, np.float32)).save(path, format="tiff")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no image"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_text("words"), "not a picture"),
        (lambda path: path.write_bytes(b""), "not a picture"),
        (truncated, "cannot be read"),
        (lambda path: Image.new("L", (MIN_SIDE - 1, 99)).save(path), "at least 16 pixels"),
        (floats_beyond_one, r"float values outside \[0, 1\]"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, make, message):
    path = tmp_path / "picture.png"
    make(path)
    with pytest.raises(InputError, match=message):
        load(str(path))


def test_a_picture_that_unfolds_to_more_than_memory_holds_is_refused(tmp_path, monkeypatch):
    """Pillow refuses twice its limit, before it decodes; here with a limit of a smaller size."""
    assert Image.MAX_IMAGE_PIXELS is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "bomb.png"
    Image.new("1", (200, 200)).save(path)
    with pytest.raises(InputError, match=r"bomb.png is too large: .* could be decompression bomb"):
        load(str(path))
