"""The command that audits labels: planted wrong labels are found, bad input is named."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_iris

from snrgate.lab import cli
from snrgate.lab.commands.audit_data import Reading, read
from snrgate.lab.errors import InputError

WRONG = (4, 60, 90, 130)  # rows of iris that get another label


def iris():
    x, y = load_iris(return_X_y=True)
    table = pd.DataFrame(x, columns=["sepal length", "sepal width", "petal length", "petal width"])
    names = np.array(["setosa", "versicolor", "virginica"])
    y = y.copy()
    y[list(WRONG)] = (y[list(WRONG)] + 1) % 3
    return table.assign(species=names[y])


def run(*args):
    return cli.main(["audit", *(str(a) for a in args), "--steps", "300"])


def test_the_wrong_labels_of_a_table_are_ranked_first(tmp_path, capsys):
    table, path, out = iris(), tmp_path / "data.csv", tmp_path / "ranked.csv"
    table.loc[5, "petal width"] = np.nan
    table.assign(rank=range(150)).to_csv(path, index=False)
    assert run(path, "--label", "species", "--out", out) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    header = ["audit_rank", "row", "quality", "given", "suggested", *table.columns, "rank"]
    assert list(rows[0]) == header
    assert len(rows) == 150  # nothing is dropped
    assert sorted(int(row["row"]) for row in rows) == list(range(1, 151))
    for row in rows:  # each row is the one of the file
        at = int(row["row"]) - 1
        assert row["given"] == row["species"] == table.species[at]
        assert row["rank"] == str(at)
    assert np.all(np.diff([float(row["quality"]) for row in rows]) >= 0)
    assert {int(row["row"]) - 1 for row in rows[:8]} >= set(WRONG)
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.size[0] > 100
    said = capsys.readouterr().out
    assert said.startswith("150 examples, 5 columns, 3 classes.")
    assert run(path, "--label", "species", "--out", out) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_folder_of_pictures_is_audited(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(rng.normal(level, 20, (16, 16)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i:02}.png")
    lost = tmp_path / "pictures" / "dark" / "03.png"
    Image.fromarray(np.full((16, 16, 3), 210, np.uint8)).save(lost)
    (tmp_path / "pictures" / ".hidden").write_text("")
    out = tmp_path / "ranked.csv"
    assert run(tmp_path / "pictures", "--out", out, "--size", "4") == 0
    with out.open() as file:
        first = next(csv.DictReader(file))
    assert (first["file"], first["given"], first["suggested"]) == ("dark/03.png", "dark", "light")
    assert ".hidden" in capsys.readouterr().out
    (tmp_path / "pictures" / "dark" / "notes.png").write_text("words")
    with pytest.raises(InputError, match=r"notes.png cannot be read"):
        read(tmp_path / "pictures", Reading(None))


def test_the_forms_of_a_file_hold_the_same_examples(tmp_path):
    table = iris()
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    np.savez(
        tmp_path / "a.npz", x=table.iloc[:, :4].to_numpy(), species=table.species.to_numpy(str)
    )
    forms = ["a.csv", "a.tsv", "a.npz"]
    try:
        table.to_parquet(tmp_path / "a.parquet")
        forms.append("a.parquet")
    except ImportError:
        with pytest.raises(ImportError):
            import pyarrow  # noqa: F401
    for form in forms:
        found = read(tmp_path / form, Reading("species"))
        np.testing.assert_array_equal(found.x.to_numpy(float), table.iloc[:, :4].to_numpy())
        np.testing.assert_array_equal(found.labels, table.species)


GOOD = "size,kind,colour\n1,a,red\n2,b,blue\n3,a,red\n4,b,blue\n"


@pytest.mark.parametrize(
    ("text", "label", "says"),
    [
        (GOOD, "knd", "there is no column 'knd'; there are size, kind, colour"),
        (GOOD.replace("2,b", "2,"), "kind", "row 2, column 'kind': there is no label"),
        (GOOD.replace("2,b", "2,NA"), "kind", "row 2, column 'kind': there is no label"),
        (GOOD.replace("3,a", "3?,a"), "kind", "row 3, column 'size': '3.' is no number"),
        (GOOD.replace("3,a", "inf,a"), "kind", "row 3, column 'size' is infinite"),
        (GOOD.replace("3,a", "3"), "kind", "row 3 of .* has 2 cells, and the header 3"),
        (GOOD.replace(",", ";"), "kind", "there is no column 'kind'; there are size;kind"),
        (GOOD.replace("kind", "size"), "size", "two columns 'size'"),
        ("kind\na\nb\n", "kind", "no column beside the label"),
        ("size,kind\n", "kind", "no rows below"),
        ("", "kind", "no rows below"),
        ('size,kind\n1,"a\n', "kind", "no table of cells"),
        (
            "name,kind\n" + "".join(f"n{i}x,{'ab'[i % 2]}\n" for i in range(60)),
            "kind",
            "--ignore name",
        ),
        (GOOD.replace("b", "a"), "kind", "all labels are 'a'"),
        (
            'size,kind\n"1,5",a\n2,b\n"3,5",a\n4,b\n"1.234,5",a\n',
            "kind",
            "row 1, column 'size': '1,5' is a number with other signs",
        ),
        ("x,kind\n" + "".join(f"{i},{i}\n" for i in range(9)), "kind", "9 different labels of 9"),
        *(
            (
                "size,kind\n" + "".join(f"{cell},{kind}\n" for kind in "abab"),
                "kind",
                "row 1, column 'size': .* is a number with other signs",
            )
            for cell in ("12.3%", "€5.0", "$ 7", "1 234", "1'234.5", "-4 %", "3 €")
        ),
        ("x,kind\n1,1\n2,1.0\n3,2\n", "kind", "the labels '1' and '1.0' are one number written in"),
    ],
)
def test_bad_files_are_named_by_row_and_column(tmp_path, capsys, text, label, says):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert run(path, "--label", label, "--out", tmp_path / "ranked.csv") == 2
    error = capsys.readouterr().err
    assert error.startswith("snrgate: ")
    assert error.count("\n") == 1
    assert re.search(says, error)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv"]


def test_numbers_that_are_names_and_texts_and_holes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("code,colour,empty,kind\n1,red,,a\n2,,NA,b\n2,red,?,a\n")
    found = read(path, Reading("kind", categorical=("code",)))
    assert found.x["code"].tolist() == ["1", "2", "2"]
    assert found.x["colour"].isna().tolist() == [False, True, False]
    assert found.notes == ("column 'empty' is empty, and adds nothing",)
    kept = read(path, Reading("kind", ignore=("colour", "empty")))
    assert kept.x.columns.tolist() == ["code"]
    assert kept.shown.columns.tolist() == ["code", "colour", "empty", "kind"]  # the result has all


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, "array 'x' has shape"),
        ({"x": np.array(["a"] * 4), "y": np.ones(4)}, "array 'x' has shape"),
        ({"x": np.ones((4, 2)), "y": np.ones((4, 2))}, "labels have one axis"),
        ({"x": np.ones((4, 2)), "z": np.ones(4)}, "no array 'y'; it has x, z"),
        ({"x": np.ones((0, 2)), "y": np.ones(0, int)}, "a.npz has no rows"),
        ({"x": np.ones((2, 2)), "y": np.array([b"a", b"\xff"])}, "a.npz cannot be read"),
        ({"x": np.array([[1.0], [np.inf]]), "y": np.arange(2)}, r"row 2, column 'x\[0\]' is inf"),
        ({"x": np.ones((4, 2)), "x[1]": np.ones(4), "y": np.arange(4)}, r"a column 'x\[1\]', and"),
    ],
)
def test_bad_arrays_are_named(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=says):
        read(tmp_path / "a.npz", Reading("y"))


def test_labels_of_bytes_are_texts(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.array([b"no", "ähm".encode(), b"yes"]))
    assert read(tmp_path / "a.npz", Reading("y")).labels.tolist() == ["no", "ähm", "yes"]


def test_numbers_that_are_names_in_arrays(tmp_path):
    codes = np.arange(6) % 3
    np.savez(tmp_path / "a.npz", code=codes, pair=np.stack([codes, codes], 1), y=np.arange(6) % 2)
    found = read(tmp_path / "a.npz", Reading("y", categorical=("code", "pair")))
    assert set(found.x.dtypes) == {np.dtype(object)}
    assert found.x.columns.tolist() == ["code", "pair[0]", "pair[1]"]
    assert read(tmp_path / "a.npz", Reading("y")).x.dtypes["code"].kind == "f"
    with pytest.raises(InputError, match="no array 'cod'; it has"):
        read(tmp_path / "a.npz", Reading("y", categorical=("cod",)))


def test_an_option_is_not_passed_over(tmp_path):
    (tmp_path / "a.tsv").write_text("size;kind\n1;a\n2;b\n")
    assert read(tmp_path / "a.tsv", Reading("kind", separator=";")).x["size"].tolist() == [1, 2]
    with pytest.raises(InputError, match="has pictures and no columns"):
        read(tmp_path, Reading(None, ignore=("size",)))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--out", "ranked.png"], "is the name of the picture; name the table.*ranked.csv"),
        (["--out", "."], "out = . is a folder; name a file"),
        (["--seed", "99999999999"], "must be below 2"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path, capsys, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(GOOD)
    assert run(tmp_path / "a.csv", "--label", "kind", *args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(says, error)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_what_is_no_data_is_refused(tmp_path):
    for path, how, says in (
        (tmp_path / "none.csv", Reading("y"), "there is no file"),
        (tmp_path, Reading("y"), "leave --label out"),
        (tmp_path, Reading(None), "has no pictures"),
    ):
        with pytest.raises(InputError, match=says):
            read(path, how)
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.npz").write_text("words")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("empty.npz", "one.npz"):
        with pytest.raises(InputError, match="cannot be read as an npz file"):
            read(tmp_path / name, Reading("b"))
    (tmp_path / "b.csv").write_bytes(b"a,b\n\xff\xfe,2\n")
    for name, says in (("a.txt", "none of"), ("a.npz", "be read"), ("b.csv", "be read")):
        with pytest.raises(InputError, match=says):
            read(tmp_path / name, Reading("b"))
    with pytest.raises(InputError, match="say which column"):
        read(tmp_path / "b.csv", Reading(None))
    with pytest.raises(InputError, match="must lie in the folder of a class"):
        read(tmp_path, Reading(None))
