"""Human ratings of short texts, and pairs of replies whose labels are as noisy as one human.

The texts and every single rating are in the archive ``hutto_ICWSM_2014.tar.gz`` inside the source
package of vaderSentiment (Hutto & Gilbert, ICWSM 2014):

    pip download --no-binary :all: --no-deps vaderSentiment==3.3.2
"""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from snrgate.lab.errors import InputError
from snrgate.lab.tasks.pairs import Pair

__all__ = ["RatedPairs", "Ratings", "Source", "rated_pairs", "read_ratings"]

Source = Literal["movies", "products", "tweets", "news"]

_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
_FILES = {
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "tweets": "tweets",
    "news": "nytEditorialSnippets",
}
_ASKED = {
    "movies": ("Film review: {} My verdict: I", " liked it.", " hated it."),
    "products": ("Product review: {} My verdict: I", " liked it.", " hated it."),
    "tweets": ("Tweet: {} The writer feels", " good.", " bad."),
    "news": ("News: {} This is", " good.", " bad."),
}
_SCALE = 4  # the best rating; the worst is its negative


class Ratings(NamedTuple):
    """Texts with the ratings of several humans, from -4 to 4.

    Attributes:
        texts: all different.
        ratings: those of each text.
        duplicates: number of texts that were there before; their ratings were added to the first.
    """

    texts: list[str]
    ratings: list[np.ndarray]
    duplicates: int

    @property
    def means(self) -> np.ndarray:
        """The mean rating of each text, from the single ratings."""
        return np.array([np.mean(x) for x in self.ratings])


class RatedPairs(NamedTuple):
    """Pairs of two replies to each text, one of which likes it.

    Attributes:
        train: labelled by one human, some of them swapped.
        test: labelled by the mean of all humans, of other texts.
        wrong: whether the label of a training pair is not that of the mean.
        natural: whether this was so before the swaps.
    """

    train: list[Pair]
    test: list[Pair]
    wrong: np.ndarray
    natural: np.ndarray


def read_ratings(path: Path, source: Source) -> Ratings:
    """Read the single ratings of one kind of texts.

    Args:
        path: the source package of vaderSentiment (``vaderSentiment-3.3.2.tar.gz``), or the
            archive inside it.
        source: which texts: snippets of film reviews, reviews of products, tweets, or editorials.

    Raises:
        InputError: the file is not there, is no such archive, or a line of it is not as expected.
    """
    name = _FILES[source]
    try:
        files = _members(
            path.read_bytes(), (f"{name}_anonDataRatings.txt", f"{name}_GroundTruth.txt")
        )
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}; get it with: pip download "
            "--no-binary :all: --no-deps vaderSentiment==3.3.2"
        ) from error
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise InputError(
            f"{path} is neither the source package of vaderSentiment nor its archive {_ARCHIVE}: "
            f"{error}"
        ) from error
    rated, shown = (
        _rows(path, content, columns) for content, columns in zip(files, (4, 3), strict=True)
    )
    if set(rated) != set(shown):
        raise InputError(f"{path} has ratings and texts of {source} that do not belong together")
    texts: dict[str, tuple[str, list[int]]] = {}
    for key, row in shown.items():
        text = " ".join(row[-1].split())
        values = _values(path, key, rated[key][-1])
        texts.setdefault(text.lower(), (text, []))[1].extend(values)
    return Ratings(
        [text for text, _ in texts.values()],
        [np.array(values) for _, values in texts.values()],
        len(shown) - len(texts),
    )


def _members(content: bytes, endings: tuple[str, ...]) -> list[str]:
    """The files of an archive, or of the archive inside it, whose names end so."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = {Path(member.name).name: member for member in archive if member.isfile()}
        if _ARCHIVE in found:
            inner = archive.extractfile(found[_ARCHIVE])
            assert inner is not None  # it is a file
            return _members(inner.read(), endings)
        texts = []
        for ending in endings:
            if ending not in found:
                raise KeyError(f"there is no {ending} in it")
            file = archive.extractfile(found[ending])
            assert file is not None  # it is a file
            texts.append(file.read().decode("utf-8-sig"))
        return texts


def _rows(path: Path, content: str, columns: int) -> dict[str, list[str]]:
    """The rows of a file by what their first cell holds."""
    rows = {}
    for number, line in enumerate(content.splitlines(), 1):
        cells = line.split("\t")
        if len(cells) != columns or cells[0] in rows:
            raise InputError(
                f"line {number} of a file in {path} has {len(cells)} cells, not {columns}, or the "
                "name of an earlier line"
            )
        rows[cells[0]] = cells
    return rows


def _values(path: Path, key: str, cell: str) -> list[int]:
    try:
        values = json.loads(cell)
        if values and all(isinstance(x, int) and abs(x) <= _SCALE for x in values):
            return values
    except (ValueError, TypeError):
        pass
    raise InputError(f"the ratings of text {key} in {path} are no list of numbers from -4 to 4")


def rated_pairs(
    ratings: Ratings,
    source: Source,
    *,
    train: int,
    test: int,
    swap: float = 0.0,
    words: int = 20,
    seed: int = 0,
) -> RatedPairs:
    """Pairs with a shared prompt: does the writer of a text like what it is about?

    The label of a training pair is the sign of ONE rating, drawn from those of the text that are
    not 0. The label of a test pair is the sign of the mean. No text is in both.

    Args:
        ratings: of :func:`read_ratings`.
        source: of the ratings; it decides the wording.
        train: number of training pairs.
        test: number of test pairs.
        swap: share of the training pairs whose label is turned round on top of that.
        words: the most words of a text.
        seed: of the split, the raters and the swaps.

    Raises:
        InputError: there are not enough texts.
    """
    rng = np.random.default_rng(seed)
    means = ratings.means
    usable = [
        i
        for i, text in enumerate(ratings.texts)
        if means[i] != 0 and len(text.split()) <= words and "\t" not in text
    ]
    if len(usable) < train + test:
        raise InputError(
            f"{len(usable)} texts of {source} have at most {words} words and a mean that is not 0; "
            f"{train} training and {test} test pairs need {train + test}"
        )
    order = rng.permutation(usable)
    learned, tested = order[:train], order[train : train + test]
    drawn = np.array([rng.choice((r := ratings.ratings[i])[r != 0]) for i in learned])
    natural = np.sign(drawn) != np.sign(means[learned])
    swapped = np.isin(np.arange(train), rng.permutation(train)[: round(swap * train)])
    wrong = natural ^ swapped

    def pair(i: Any, likes: bool) -> Pair:
        prompt, good, bad = _ASKED[source]
        replies = (good, bad) if likes else (bad, good)
        return Pair(prompt.format(ratings.texts[i]), *replies)

    return RatedPairs(
        [pair(i, bool((means[i] > 0) ^ w)) for i, w in zip(learned, wrong, strict=True)],
        [pair(i, bool(means[i] > 0)) for i in tested],
        wrong,
        natural,
    )
