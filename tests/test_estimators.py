"""The estimators: scikit-learn's own checks, its tools, and data as people have them."""

import pickle
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from snrgate.estimators import GatedClassifier, GatedRegressor
from snrgate.estimators.columns import Encoder, Scaler, merge

QUICK = {
    "hidden_sizes": (16,),
    "steps": 50,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "block": "unit",
    "random_state": 0,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [GatedClassifier, GatedRegressor])
def test_every_check_of_scikit_learn_passes(kind):
    model = kind((16,), batch_size=32, steps=300, learning_rate=1e-2)
    results = check_estimator(model, on_fail=None, on_skip=None)
    failed = {r["check_name"]: repr(r["exception"]) for r in results if r["status"] == "failed"}
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert not failed
    assert skipped <= {"check_array_api_input"}  # needs a variable of the environment
    assert sum(r["status"] == "passed" for r in results) > 50


def table(n=120, seed=0):
    """A table as people have them: numbers, texts, flags, and holes in all of them."""
    rng = np.random.default_rng(seed)
    colour = rng.choice(["red", "green", "blue"], n)
    frame = pd.DataFrame(
        {
            "size": rng.standard_normal(n) * 1e6,
            "colour": colour,
            "kind": pd.Categorical(rng.choice(["a", "b"], n)),
            "flag": rng.random(n) < 0.5,
            "count": pd.array(rng.integers(0, 9, n), dtype="Int64"),
        }
    )
    target = (colour == "red") * 2.0 + frame["size"].to_numpy() / 1e6 + 100
    frame.loc[::7, "size"] = np.nan
    frame.loc[::5, "colour"] = None
    frame.loc[::11, "count"] = pd.NA
    return frame, target


def test_the_columns_of_a_table_are_those_of_a_pipeline():
    frame, _ = table()
    encoder = Encoder(frame, np.ones(len(frame)))
    columns = encoder(frame)
    scaler = Scaler.of(columns, np.ones(len(frame)), encoder.numerical)
    found = scaler(columns)
    numbers = frame[["size", "flag", "count"]].astype("Float64").to_numpy(float, na_value=np.nan)
    scaled = StandardScaler().fit_transform(numbers)  # it ignores NaN
    np.testing.assert_allclose(found[:, :3], np.nan_to_num(scaled, nan=0.0), atol=1e-12)
    texts = frame[["colour", "kind"]].astype(object).where(frame[["colour", "kind"]].notna(), None)
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(texts.to_numpy(object))
    np.testing.assert_array_equal(found[:, 3:9], one_hot)
    np.testing.assert_array_equal(found[:, 9:], np.isnan(numbers[:, [0, 2]]))


def test_a_table_is_learned_with_its_holes_and_new_categories_are_none():
    frame, target = table()
    model = GatedRegressor(**QUICK | {"steps": 300}).fit(frame, target)
    assert list(model.feature_names_in_) == list(frame.columns)
    assert model.score(frame, target) > 0.5
    new = frame.head(4).copy()
    new["colour"] = "violet"
    assert np.isfinite(model.predict(new)).all()
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[frame.columns[::-1]])
    with pytest.raises(ValueError, match="column 'size' held numbers"):
        model.predict(new.assign(size="large"))
    with pytest.raises(ValueError, match="column 'size' is infinite in row 2"):
        model.predict(new.assign(size=[1.0, 2.0, np.inf, 3.0]))
    with pytest.raises(ValueError, match="column 'when' has dtype datetime64"):
        clone(model).fit(frame.assign(when=pd.Timestamp("2020-01-01")), target)


DAYS = pd.date_range("2020-01-01", periods=60)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (DAYS.date, "date"),
        (DAYS.to_pydatetime().astype(object), "datetime"),
        (DAYS.time, "time"),
        (DAYS.to_period(), "Period"),
        (pd.Categorical(DAYS), "Timestamp"),
        ((DAYS - DAYS[0]).astype(object), "Timedelta"),
        (np.full(60, 1j, object), "complex"),
    ],
)
def test_quantities_that_are_no_numbers_are_refused_by_name(column, said):
    frame = pd.DataFrame({"size": np.arange(60.0), "when": column})
    with pytest.raises(ValueError, match=f"column 'when' (holds values of type|has dtype).*{said}"):
        GatedRegressor(**QUICK).fit(frame, np.arange(60.0))


@pytest.mark.parametrize("constant", [0.0, 1e-9, 5.0, -3e7])
def test_a_target_that_never_varies_is_predicted_as_it_is(constant):
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(60, 3)), rng.normal(size=(40, 3))
    model = GatedRegressor(**QUICK).fit(x, np.full(60, constant))
    np.testing.assert_allclose(model.predict(new), constant, rtol=1e-12)
    both = np.c_[1e-6 * x[:, 0], np.full(60, constant)]
    predicted = clone(model).fit(x, both).predict(new)
    np.testing.assert_allclose(predicted[:, 1], constant, rtol=1e-12)
    assert 1e-8 < np.std(predicted[:, 0]) < 1e-5


@pytest.mark.filterwarnings("ignore:X has feature names:UserWarning")
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_an_array_and_a_table_of_numbers_are_the_same():
    frame, target = table()
    numbers = frame[["size", "flag", "count"]]
    array = numbers.astype("Float64").to_numpy(float, na_value=np.nan)
    by_frame = GatedRegressor(**QUICK).fit(numbers, target)
    by_array = GatedRegressor(**QUICK).fit(array, target)
    for model in (by_frame, by_array):
        for given in (numbers, array):
            np.testing.assert_array_equal(model.predict(given), by_frame.predict(numbers))
    with pytest.raises(ValueError, match="column 'size' held numbers"):
        by_array.predict(numbers.assign(size="large"))
    mixed = GatedRegressor(**QUICK).fit(frame[["colour", "size", "count"]], target)
    with pytest.raises(ValueError, match="column 'colour' is categorical"):
        mixed.predict(array)


def test_targets_of_any_scale_and_number_are_predicted_in_their_units():
    x, _ = load_iris(return_X_y=True)
    y = np.column_stack([x[:, 0] * 1e5 + 1e7, x[:, 1] * 1e-4])
    # Every batch has all rows, because rows of other numbers are drawn in another order.
    model = GatedRegressor(**QUICK | {"steps": 300, "batch_size": 160}).fit(x[:, 2:], y)
    assert model.predict(x[:, 2:]).shape == y.shape
    assert model.score(x[:, 2:], y) > 0.4
    scaled = clone(model).fit(x[:, 2:] * 1e9, y * 1e3 - 5)
    differ = scaled.predict(x[:, 2:] * 1e9) - (model.predict(x[:, 2:]) * 1e3 - 5)
    assert np.all(np.abs(differ).max(0) < 0.01 * (y * 1e3).std(0))


@pytest.mark.parametrize(
    ("kind", "n"),  # all examples in one batch, and in several
    [(GatedClassifier, 20), (GatedClassifier, 90), (GatedRegressor, 90)],
)
def test_a_weight_is_a_number_of_equal_rows(kind, n):
    rng = np.random.default_rng(0)
    x, y, weights = rng.standard_normal((n, 3)), rng.integers(0, 2, n), rng.integers(0, 4, n)
    x[::6, 1] = np.nan
    order = rng.permutation(weights.sum())
    weighted = kind(**QUICK).fit(x, y, sample_weight=weights)
    repeated = kind(**QUICK).fit(x.repeat(weights, 0)[order], y.repeat(weights)[order])
    np.testing.assert_array_equal(weighted._outputs(x), repeated._outputs(x))
    plain = kind(**QUICK).fit(x, y)
    assert not np.array_equal(plain._outputs(x), weighted._outputs(x))
    # Weights that sum to one are not one example.
    shares = kind(**QUICK).fit(x, y, sample_weight=np.full(n, 1 / n))
    np.testing.assert_allclose(shares._outputs(x), plain._outputs(x), atol=1e-3)
    # Nor are weights whose squares are too small for a number.
    tiny = kind(**QUICK).fit(x, y, sample_weight=np.full(n, 1e-170))
    np.testing.assert_array_equal(tiny._outputs(x), plain._outputs(x))


def test_equal_rows_are_merged_whatever_their_order():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, (60, 2)) * 1.0
    rows[rows == 2] = np.nan
    rows[::3] *= -1  # minus zero is zero
    merged, weights = merge(rows, np.arange(60.0))
    again, same = merge(rows[::-1], np.arange(60.0)[::-1])
    np.testing.assert_array_equal(merged, again)
    np.testing.assert_array_equal(weights, same)
    counted = pd.DataFrame(rows).assign(w=np.arange(60.0)).groupby([0, 1], dropna=False).w.sum()
    assert len(merged) == len(counted)
    assert sorted(weights) == sorted(counted)


def test_a_model_survives_pickle_and_clone_and_is_its_seed():
    x, y = load_iris(return_X_y=True)
    model = GatedClassifier(**QUICK).fit(x, y)
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).predict_proba(x), model.predict_proba(x)
    )
    again = clone(model).fit(x, y)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    other = clone(model).set_params(random_state=1).fit(x, y)
    assert not np.array_equal(other.predict_proba(x), model.predict_proba(x))
    # Training goes on from a pickle as it would have.
    more = pickle.loads(pickle.dumps(model)).partial_fit(x, y)
    np.testing.assert_array_equal(more.predict_proba(x), model.partial_fit(x, y).predict_proba(x))


@pytest.mark.parametrize("names", [False, True])
def test_new_examples_come_in_parts(names):
    x, y = make_classification(1000, 8, n_informative=4, random_state=0, class_sep=2.0)
    y = np.array(["no", "yes"])[y] if names else y
    model = GatedClassifier(**QUICK)
    for at in range(0, 800, 100):
        model.partial_fit(x[at : at + 100], y[at : at + 100], classes=np.unique(y))
    assert model.score(x[800:], y[800:]) > 0.8
    assert len(model.loss_curve_) == 8 * 4  # every example once
    with pytest.raises(ValueError, match="the label of row 1 of y is not in classes"):
        model.partial_fit(x[:2], [y[0], "else" if names else 7])
    with pytest.raises(ValueError, match="classes must be given"):
        clone(model).partial_fit(x, y)


def test_targets_come_in_parts():
    x, _ = load_iris(return_X_y=True)
    model = GatedRegressor(**QUICK)
    for _ in range(30):
        model.partial_fit(x[:, :3], x[:, 3])
    assert model.score(x[:, :3], x[:, 3]) > 0.8
    with pytest.raises(ValueError, match="there were 1 targets"):
        model.partial_fit(x[:, :3], x[:, 2:])


def test_the_tools_of_scikit_learn_take_them(capsys):
    x, y = load_iris(return_X_y=True)
    x = np.column_stack([x, np.random.default_rng(0).standard_normal((len(x), 2))])
    search = GridSearchCV(
        make_pipeline(StandardScaler(), GatedClassifier(**QUICK)),
        {"gatedclassifier__learning_rate": [1e-5, 1e-2]},
        cv=2,
    ).fit(x, y)
    assert search.best_params_ == {"gatedclassifier__learning_rate": 1e-2}
    found = permutation_importance(search.best_estimator_, x, y, random_state=0)
    assert found.importances_mean[:4].max() > 5 * found.importances_mean[4:].max()
    GatedClassifier(**QUICK, verbose=True).fit(x, y)
    assert capsys.readouterr().out.startswith("step 25: loss ")


@pytest.mark.filterwarnings("ignore")
def test_cleanlab_takes_a_classifier():
    classification = pytest.importorskip("cleanlab.classification")
    x, y = load_iris(return_X_y=True)
    wrong = [3, 60, 120]
    y[wrong] = (y[wrong] + 1) % 3
    model = classification.CleanLearning(GatedClassifier(**QUICK | {"steps": 200}))
    issues = model.find_label_issues(x, y)
    assert issues["is_label_issue"].to_numpy()[wrong].sum() >= 2
    assert model.fit(x, y, label_issues=issues).score(x, y) > 0.8


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"hidden_sizes": 16}, "hidden_sizes = 16 must be a tuple"),
        ({"hidden_sizes": (16, 0)}, "hidden_sizes"),
        ({"steps": 0}, "steps = 0 must be a positive integer"),
        ({"batch_size": 2}, "batch_size = 2"),
        ({"learning_rate": np.nan}, "learning_rate = nan"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"z": 0}, "z = 0"),
        ({"block": "tensor"}, "block = 'tensor' must be 'kronecker' or 'unit'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, says):
    with pytest.raises(ValueError, match=says):
        GatedClassifier(**settings).fit([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ([1, "1", None] * 4, "column 'e' holds values of the types int, str"),
        ([[1]] * 12, "column 'e' holds values of the types list"),
    ],
)
def test_a_column_that_has_no_categories_is_named(column, says):
    table = pd.DataFrame({"a": np.arange(12.0), "e": pd.Series(column, dtype=object)})
    with pytest.raises(ValueError, match=says):
        GatedClassifier(**QUICK).fit(table, np.arange(12) % 2)


@pytest.mark.parametrize("kind", [float, int, bool, Decimal])
def test_a_column_of_objects_that_are_numbers_is_one_of_numbers(kind):
    rng = np.random.default_rng(0)
    values = pd.Series([kind(round(v)) for v in 3 * rng.standard_normal(60)])
    plain = pd.DataFrame({"a": values.astype(float), "b": np.arange(60.0)})
    objects = plain.assign(a=values.astype(object))
    objects.loc[3, "a"], plain.loc[3, "a"] = None, np.nan
    y = plain["a"].fillna(0).to_numpy() + plain["b"].to_numpy()
    found, wanted = (GatedRegressor(**QUICK).fit(x, y) for x in (objects, plain))
    np.testing.assert_array_equal(found.predict(objects), wanted.predict(plain))
    np.testing.assert_array_equal(found.predict(plain), wanted.predict(plain))


@pytest.mark.parametrize(
    ("fitted", "given"),
    [
        (["1", "2", "3"], [1, 2, 3]),
        (pd.Categorical([1, 2, 3]), ["1", "2", "3"]),
        (pd.Categorical([1, 2, 3]), pd.Categorical(["1", "2", "3"])),
    ],
)
def test_categories_that_come_back_as_another_type_are_refused(fitted, given):
    frame = pd.DataFrame({"zip": fitted, "a": [0.0, 1.0, 2.0]})
    model = GatedRegressor(**QUICK).fit(frame, [1.0, 2.0, 3.0])
    assert np.isfinite(model.predict(frame)).all()
    with pytest.raises(ValueError, match=r"column 'zip' held .* when the estimator was fitted"):
        model.predict(frame.assign(zip=given))
    assert np.isfinite(model.predict(frame.assign(zip=[None, None, None]))).all()


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_a_column_that_never_varied_changes_nothing(value):
    x = np.random.default_rng(0).standard_normal((40, 2))
    y = x[:, 0]
    plain = pd.DataFrame(x, columns=["a", "b"])
    model = GatedRegressor(**QUICK).fit(plain.assign(c=value), y)
    before = model.predict(plain.assign(c=value))
    np.testing.assert_array_equal(model.predict(plain.assign(c=1000.0)), before)
    # Among the first examples of a stream it says nothing yet.
    model = GatedRegressor(**QUICK | {"z": 0.01})
    for _ in range(40):
        model.partial_fit(plain.assign(c=0.0), y)
        model.partial_fit(plain.assign(c=1.0), y + 3)
    assert np.mean(model.predict(plain.assign(c=1.0)) - model.predict(plain.assign(c=0.0))) > 1


@pytest.mark.parametrize("dtype", ["string", "object"])
def test_a_missing_label_is_named(dtype):
    labels = pd.Series(["u", "v", None, "u"] * 3, dtype=dtype)
    with pytest.raises(ValueError, match="y has no label in row 2"):
        GatedClassifier(**QUICK).fit(np.arange(12.0)[:, None], labels)


@pytest.mark.parametrize("hole", [None, np.nan])
@pytest.mark.parametrize("kind", [list, lambda labels: np.array(labels, object)])
def test_a_missing_label_of_an_array_is_named(kind, hole):
    with pytest.raises(ValueError, match="y has no label in row 2"):
        GatedClassifier(**QUICK).fit(np.arange(12.0)[:, None], kind(["u", "v", hole, "u"] * 3))


def test_small_mistakes_are_named():
    x, y = np.random.default_rng(0).standard_normal((40, 2)), np.arange(40) % 2
    with pytest.raises(ValueError, match="the table has no columns"):
        GatedRegressor(**QUICK).fit(pd.DataFrame(index=range(40)), y)
    with pytest.raises(ValueError, match="sample_weight sums to 4e"):
        GatedRegressor(**QUICK).fit(x, y, sample_weight=np.full(40, 1e40))
    model = GatedClassifier(**QUICK).partial_fit(x, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"hidden_sizes = \(8,\) differs from \(16,\)"):
        model.set_params(hidden_sizes=(8,)).partial_fit(x, y)


def test_nothing_to_learn_is_no_fault():
    """Constant columns, one example many times, columns of nothing but holes, huge numbers."""
    y = np.tile([0.0, 1.0], 20)
    for x in (np.ones((40, 2)), np.full((40, 1), np.nan), np.full((40, 1), 1e300)):
        predicted = GatedRegressor(**QUICK).fit(x, y).predict(x)
        np.testing.assert_allclose(predicted, 0.5, atol=1e-3)
        assert np.isfinite(GatedRegressor(**QUICK).fit(x, np.ones(40)).predict(x)).all()
    with pytest.raises(ValueError, match="n_samples = 1"):
        GatedRegressor(**QUICK).fit(x, y, sample_weight=[1.0] + [0.0] * 39)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        big = np.array([[1e300], [-1e300]] * 20)
        assert np.isfinite(GatedClassifier(**QUICK).fit(big, y).predict_proba(big)).all()


@pytest.mark.parametrize("targets", [1, 2])
def test_a_target_that_is_constant_in_the_first_chunk_is_learned_later(targets):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3200, 3))
    y = np.stack([3 * x[:, 0] + 1, x[:, 1]], 1)[:, :targets]
    y[:32, 0] = 0.0
    model = GatedRegressor(**QUICK)
    for at in range(0, len(x), 32):
        model.partial_fit(x[at : at + 32], y[at : at + 32])
    assert np.corrcoef(model.predict(x).reshape(len(x), -1)[:, 0], y[:, 0])[0, 1] > 0.9


def test_the_categories_with_inputs_of_their_own_are_those_that_count_most():
    """A row of weight two is two rows, for columns of many categories too."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"code": [f"c{i}" for i in range(160)] * 2, "size": np.arange(320.0)})
    y, weights = rng.standard_normal(320), rng.integers(1, 4, 320)
    repeated = frame.loc[frame.index.repeat(weights)], np.repeat(y, weights)
    weighted = GatedRegressor(**QUICK).fit(frame, y, weights)
    np.testing.assert_array_equal(
        weighted.predict(frame), GatedRegressor(**QUICK).fit(*repeated).predict(frame)
    )
    shown = weighted._encoder(frame)[:, 1:]
    often = np.bincount(np.arange(320) % 160, weights)
    assert shown.shape[1] == 100
    alone = shown[:160][:, shown.sum(0) == 2].any(1)  # all others share one input
    assert alone.sum() == 99
    assert often[alone].min() >= often[~alone].max()


def test_rows_of_no_weight_are_as_if_they_were_not_there():
    frame, target = table()
    frame.loc[:9, "colour"] = "a colour of these rows alone"
    weights = np.where(np.arange(len(frame)) < 10, 0.0, 1.0)
    labels = np.where(weights == 0, "a label of these rows alone", np.where(target > 100, "a", "b"))
    for kind, y in ((GatedRegressor, target), (GatedClassifier, labels)):
        whole = kind(**QUICK).fit(frame, y, weights)
        part = kind(**QUICK).fit(frame[10:], y[10:])
        np.testing.assert_array_equal(whole.predict(frame), part.predict(frame))
    assert whole.classes_.tolist() == ["a", "b"]
