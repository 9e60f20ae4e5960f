"""Examples with labels, from a file or a folder: nothing unclear is guessed, nothing left out."""

import csv
import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.transform import resize

from snrgate.lab.errors import InputError
from snrgate.lab.tasks.picture import load

__all__ = ["Examples", "Reading", "read"]

_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
# A number as people write it: with commas, spaces, apostrophes, per cent, or a unit of money.
_WRITTEN = r"[€$£¥]?\s*[+-]?\s*[€$£¥]?\s*\d[\d.,'’\s]*([eE][+-]?\d+)?\s*[%€$£¥]?"
_TEXTS = 50  # of one column, that may all differ


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a file is to be read.

    Attributes:
        label: column or array that holds the labels; ``None`` for a folder of pictures.
        ignore: columns to leave out.
        categorical: columns whose numbers are names.
        separator: between the cells of a text file; ``None`` is a tab in a TSV file, else a comma.
        size: side to which pictures are shrunk.
    """

    label: str | None
    ignore: Sequence[str] = ()
    categorical: Sequence[str] = ()
    separator: str | None = None
    size: int = 32


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples with labels.

    Attributes:
        x: what the network sees of them.
        labels: given labels, as texts.
        shown: what is said of each example in the result, by column.
        pictures: the examples as pictures, if they are pictures, with values from 0 to 1.
        notes: what the user should know.
    """

    x: pd.DataFrame
    labels: np.ndarray
    shown: pd.DataFrame
    pictures: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def read(path: Path, how: Reading) -> Examples:
    r"""Read the examples.

    Args:
        path: a file (CSV, TSV, Parquet or npz), or a folder with a folder of pictures for each
            class.
        how: which column is the label, and so on.

    Raises:
        InputError: something cannot be read or understood. The error names the row and the column.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from snrgate.lab.commands.audit_data import Reading, read
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.csv")
        ...     _ = path.write_text("size,kind\n1.5,a\n2,b\n,a\n")
        ...     examples = read(path, Reading("kind"))
        >>> examples.labels.tolist(), examples.x["size"].tolist()
        (['a', 'b', 'a'], [1.5, 2.0, nan])
    """
    if path.is_dir():
        return _of_folder(path, how)
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    readers = {
        ".csv": _of_text,
        ".tsv": _of_text,
        ".parquet": _of_parquet,
        ".npz": _of_arrays,
    }
    if path.suffix.lower() not in readers:
        raise InputError(
            f"{path} is none of {', '.join(readers)}, and no folder of pictures by class"
        )
    if how.label is None:
        raise InputError("say which column is the label: --label COLUMN")
    try:
        return readers[path.suffix.lower()](path, how)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _of_text(path: Path, how: Reading) -> Examples:
    """The cells of a text file."""
    separator = how.separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            rows = [row for row in csv.reader(file, delimiter=separator, strict=True) if row]
        except (csv.Error, TypeError) as error:
            raise InputError(f"{path} is no table of cells: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{path} has no rows below its header")
    header = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(header):
            raise InputError(
                f"row {number} of {path} has {len(row)} cells, and the header {len(header)}; mend "
                "the file, or give the --separator"
            )
    return _of_frame(pd.DataFrame(rows[1:], columns=header, dtype=object), how)


def _of_parquet(path: Path, how: Reading) -> Examples:
    try:
        table = pd.read_parquet(path).rename(columns=str)
    except ImportError as error:
        raise InputError("reading Parquet needs pyarrow: pip install pyarrow") from error
    except ValueError as error:  # of pyarrow
        raise InputError(f"{path} cannot be read: {error}") from error
    return _of_frame(table, how)


def _of_frame(table: pd.DataFrame, how: Reading) -> Examples:
    """Columns as numbers or categories, and the labels."""
    if (twice := table.columns[table.columns.duplicated()]).size:
        raise InputError(f"there are two columns {twice[0]!r}; rename one of them")
    for name in (how.label, *how.ignore, *how.categorical):
        if name not in table.columns:
            raise InputError(f"there is no column {name!r}; there are {', '.join(table.columns)}")
    labels = table[how.label]
    texts = labels.astype(str).str.strip()
    if (missing := (labels.isna() | texts.str.lower().isin(_MISSING)).to_numpy()).any():
        raise InputError(
            f"row {_first(missing)}, column {how.label!r}: there is no label ({missing.sum()} "
            "such rows); give it one, or take the row out of the file"
        )
    different = pd.Series(texts.unique())
    numbers = pd.to_numeric(different, errors="coerce").dropna()
    if (twice := numbers.duplicated(keep=False)).any():
        same = different[twice.index[twice]].tolist()
        raise InputError(
            f"column {how.label!r}: the labels {same[0]!r} and {same[1]!r} are one number written "
            "in two ways; write it in one way, or give them names"
        )
    columns, notes = {}, []
    for name in table.columns.drop([how.label, *how.ignore]):
        columns[name] = _column(table[name], name, name in how.categorical)
        if columns[name].isna().all():
            notes.append(f"column {name!r} is empty, and adds nothing")
    if not columns:
        raise InputError("there is no column beside the label to judge it by")
    return Examples(pd.DataFrame(columns), texts.to_numpy(str), table, notes=tuple(notes))


def _column(values: pd.Series, name: str, is_category: bool) -> pd.Series:
    """A column of numbers or of texts, in which missing cells are NaN."""
    if values.dtype.kind in "biuf" and not is_category:
        numbers = values.astype("Float64").astype(float)
    elif values.dtype.kind in "mMcV":
        raise InputError(
            f"column {name!r} has type {values.dtype}; turn it into numbers, or --ignore it"
        )
    else:
        texts = values.astype(str).str.strip()
        missing = values.isna() | texts.str.lower().isin(_MISSING)
        numbers = pd.to_numeric(texts.where(~missing), errors="coerce").astype(float)
        wrong = (numbers.isna() & ~missing).to_numpy()
        written = texts.str.fullmatch(_WRITTEN).to_numpy() & wrong
        if not is_category and written.any() and (written | ~wrong).all():
            raise InputError(
                f"row {_first(written)}, column {name!r}: {texts.iloc[int(written.argmax())]!r} "
                "is a number with other signs than digits and a decimal point; write the numbers "
                "of this column with these alone, or say "
                f"--categorical {name} if the column holds names"
            )
        if is_category or 2 * wrong.sum() > (~missing).sum():
            return _texts(texts.astype(object).mask(missing), name)
        if wrong.any():
            raise InputError(
                f"row {_first(wrong)}, column {name!r}: {texts.iloc[int(wrong.argmax())]!r} is no "
                "number, as most of the column are; mend it, leave it empty if it is missing, or "
                f"say --categorical {name} if the column holds names"
            )
    if (bad := np.isinf(numbers.to_numpy())).any():
        raise InputError(f"row {_first(bad)}, column {name!r} is infinite")
    return numbers


def _texts(texts: pd.Series, name: str) -> pd.Series:
    if (different := texts.nunique()) > max(_TEXTS, len(texts) // 2):
        raise InputError(
            f"column {name!r} has {different} different texts in {len(texts)} rows, from which "
            f"nothing can be learned; leave it out with --ignore {name}"
        )
    return texts.astype(object)


def _first(bad: np.ndarray) -> int:
    """The number of the first bad row, as a person counts rows below a header."""
    return int(bad.argmax()) + 1


def _of_arrays(path: Path, how: Reading) -> Examples:
    """Arrays that share their first axis. One of them has the labels."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as an npz file: {error}") from error
    for name in (how.label, *how.ignore, *how.categorical):
        if name not in arrays:
            raise InputError(f"{path} has no array {name!r}; it has {', '.join(arrays)}")
    labels = arrays.pop(str(how.label))
    if labels.ndim != 1 or labels.dtype.kind not in "biufUS":
        raise InputError(
            f"array {how.label!r} has shape {labels.shape} and type {labels.dtype}; labels have "
            "one axis"
        )
    if not len(labels):
        raise InputError(f"{path} has no rows")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    columns, names, pictures = {}, [], None
    for name, array in arrays.items():
        if name in how.ignore:
            continue
        if array.shape[:1] != labels.shape or array.dtype.kind not in "biuf":
            raise InputError(
                f"array {name!r} has shape {array.shape} and type {array.dtype}; it must have "
                f"{len(labels)} rows of numbers, or be left out with --ignore {name}"
            )
        flat = array.reshape(len(labels), -1).astype(float)
        own = {f"{name}[{i}]" if array.ndim > 1 else name: c for i, c in enumerate(flat.T)}
        if twice := columns.keys() & own.keys():
            raise InputError(
                f"array {name!r} has a column {min(twice)!r}, and so has another array; rename one"
            )
        columns |= own
        if name in how.categorical:
            names += own
        if array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3)):
            pictures = array.astype(float) / max(np.nanmax(np.abs(array)), 1e-30)
    shown = pd.DataFrame({how.label: labels})
    inner = dataclasses.replace(how, ignore=(), categorical=names)
    found = _of_frame(pd.DataFrame(columns).assign(**{str(how.label): labels}), inner)
    return dataclasses.replace(found, shown=shown, pictures=pictures)


def _of_folder(path: Path, how: Reading) -> Examples:
    """Pictures. The folder of a picture is its label."""
    if how.label is not None:
        raise InputError(f"{path} is a folder, whose folders are the labels; leave --label out")
    if how.ignore or how.categorical:
        raise InputError(
            f"{path} has pictures and no columns; leave out --ignore and --categorical"
        )
    hidden, files, labels = [], [], []
    for file in sorted(path.rglob("*")):
        if file.is_dir():
            continue
        parts = file.relative_to(path).parts
        if any(part.startswith(".") for part in parts):
            hidden.append(str(file))
        elif len(parts) != 2:
            raise InputError(f"{file} must lie in the folder of a class: {path}/CLASS/PICTURE")
        else:
            files.append(file)
            labels.append(parts[0])
    if not files:
        raise InputError(f"{path} has no pictures in folders of classes")
    read_in = [load(str(file)).pixels for file in files]
    colours = max(pixels.shape[2] for pixels in read_in)
    pictures = np.stack(
        [
            np.broadcast_to(
                resize(p, (how.size, how.size), anti_aliasing=True, order=1),
                (how.size, how.size, colours),
            )
            for p in read_in
        ]
    )
    flat = pd.DataFrame(pictures.reshape(len(files), -1).astype(float)).rename(columns=str)
    shown = pd.DataFrame({"file": [str(file.relative_to(path)) for file in files]})
    notes = (f"hidden files were left out: {', '.join(hidden)}",) if hidden else ()
    return Examples(flat, np.array(labels), shown, pictures, notes)
