"""Laws of Environments: nothing changes, nothing is copied without need, every narrowing keeps rows together."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.arrays import as_tensor
from holdfast.data import DataError, Environments


def made(n: int = 60, seed: int = 100) -> Environments:
    """Rows that carry their own number, so that a row torn from its label shows."""
    rng = np.random.default_rng(seed)
    return Environments.from_arrays(
        x=np.arange(n, dtype=np.float64)[:, None],
        y=rng.integers(0, 3, n),
        environment=np.array(["A", "B", "C"])[rng.integers(0, 3, n)],
        attributes={"row": np.arange(n)},
    )


def together(part: Environments, whole: Environments) -> bool:
    rows = part.attributes["row"]
    same_y = (part.y == whole.y[rows]).all()
    same_place = (part.environment_names == whole.environment_names[rows]).all()
    return bool((part.x[:, 0] == rows).all() and same_y and same_place)


def graph() -> SimpleNamespace:
    return SimpleNamespace(edge_index=torch.zeros(2, 0, dtype=torch.long))


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (np.zeros((4, 3)), "vector"),
        (torch.zeros(4, 3), "vector"),
        ([[1.0, 2.0]] * 4, "vector"),
        (np.zeros((4, 3, 8, 8)), "image"),
        (np.zeros((4, 8, 8), np.uint8), "image"),
        (np.zeros((4, 9, 2)), "trajectories"),
        (pd.DataFrame({"a": [1, 2, 3, 4], "b": list("wxyz")}), "table"),
        (["a", "b", "c", "d"], "text"),
        (pd.Series(["a", "b", "c", "d"]), "text"),
        (np.array(["a", "b", "c", "d"]), "text"),
        ([np.zeros((n, 2)) for n in (1, 5, 2, 3)], "sets"),
        ([torch.zeros(n, 2) for n in (1, 5, 2, 3)], "sets"),
        ([graph() for _ in range(4)], "graphs"),
    ],
)
def test_every_modality_keeps_its_kind_when_narrowed_split_and_pickled(x, kind):
    e = Environments.from_arrays(x, [0, 1, 0, 1], ["A", "A", "B", "B"])
    assert e.kind == kind
    assert e.only("B").kind == kind
    assert len(e.only("B").x) == 2
    assert [p.kind for p in e.split(0.5, seed=100)] == [kind, kind]
    assert Environments.concat(e.only("A"), e.only("B")).kind == kind
    assert len(pickle.loads(pickle.dumps(e)).x) == 4


def test_arrays_cannot_be_written_to_and_the_callers_array_still_can():
    x, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    e = Environments.from_arrays(x, y, list("AABB"), {"sex": ["f", "m", "f", "m"]})
    for a in (e.x, e.y, e.environment, e.attributes["sex"], e.classes, e.labels, e.only("A").x):
        with pytest.raises(ValueError, match="read-only"):
            a[0] = a[1]
    with pytest.raises(FrozenInstanceError):
        e.y = y
    with pytest.raises(TypeError):
        e.attributes["new"] = y
    x[0] = 1.0


def test_pickling_keeps_everything_and_stays_read_only():
    e = made()
    f = pickle.loads(pickle.dumps(e))
    assert f.names == e.names
    assert (f.x == e.x).all()
    assert (f.y == e.y).all()
    assert not f.x.flags.writeable


def test_building_and_taking_a_run_of_rows_copies_nothing():
    x = np.zeros((6, 2))
    e = Environments.from_arrays(x, [0, 1] * 3, list("AABBCC"))
    assert np.shares_memory(e.x, x)
    for part in (e.only("B"), e.without("A"), e.only("A", "B"), e.subset(slice(1, 5)), e.subset([2, 3]), e.pooled()[0]):
        assert np.shares_memory(getattr(part, "x", part), x)
    assert not np.shares_memory(e.only("A", "C").x, x)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    seen = Environments.from_arrays(images, [0, 1, 0, 1])
    assert seen.x.shape == (4, 3, 8, 8)
    assert np.shares_memory(seen.x, images)


def test_a_table_is_not_renamed_or_reindexed_under_the_callers_hands():
    frame = pd.DataFrame({1: [1.0, 2.0], "b": ["u", "v"]}, index=[7, 9])
    e = Environments.from_arrays(frame, [0, 1])
    assert frame.columns.tolist() == [1, "b"]
    assert frame.index.tolist() == [7, 9]
    assert e.x.columns.tolist() == ["1", "b"]
    assert e.subset([1]).x["b"].tolist() == ["v"]


def test_only_and_without_split_the_samples_in_two():
    e = made()
    a, rest = e.only("A"), e.without("A")
    assert len(a) + len(rest) == len(e)
    assert together(a, e)
    assert together(rest, e)
    assert a.names == ("A",)
    assert rest.names == ("B", "C")
    assert set(rest.environment.tolist()) == {0, 1}
    assert e.only(*e.names) is e


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(10, 200),
    fraction=st.floats(0.1, 0.9),
    seed=st.integers(100, 10_000),
    stratify=st.booleans(),
)
def test_split_is_a_partition_of_the_asked_size(n, fraction, seed, stratify):
    e = made(n, seed)
    rest, part = e.split(fraction, seed, stratify)
    assert len(part) == round(fraction * n)
    rows = np.concatenate([rest.attributes["row"], part.attributes["row"]])
    assert sorted(rows.tolist()) == list(range(n))
    assert together(rest, e)
    assert together(part, e)
    assert rest.names == part.names == e.names


@settings(max_examples=40, deadline=None)
@given(n=st.integers(30, 300), fraction=st.floats(0.1, 0.9), seed=st.integers(100, 10_000))
def test_a_stratified_split_takes_its_share_of_every_stratum_to_within_one(n, fraction, seed):
    e = made(n, seed)
    _, part = e.split(fraction, seed)
    counts = e.describe().drop(columns="samples").to_numpy()
    taken = pd.crosstab(part.environment, part.y).reindex(index=range(3), columns=range(3), fill_value=0).to_numpy()
    share = round(fraction * n) / n
    assert (np.abs(taken - share * counts) <= 1 + 1e-9).all()


def test_split_depends_on_the_seed_alone():
    e = made()
    rows = [e.split(0.3, seed=s)[1].attributes["row"].tolist() for s in (100, 100, 101)]
    assert rows[0] == rows[1] != rows[2]


def test_every_row_is_drawn_into_the_part_equally_often():
    e = made(30)
    drawn = np.zeros(30)
    for seed in range(100, 700):
        drawn[e.split(1 / 3, seed)[1].attributes["row"]] += 1
    # Binomial(600, 1/3) has a standard deviation of 11.5; strata of one and rounding move shares by under 1/2.
    big = pd.Series(list(zip(e.environment, e.y))).map(pd.Series(list(zip(e.environment, e.y))).value_counts()) >= 3
    assert (np.abs(drawn[big] / 600 - 1 / 3) < 0.17).all()
    within = pd.Series(drawn).groupby([e.environment, e.y]).agg(lambda v: v.max() - v.min())
    assert (within < 6 * np.sqrt(2 * 600 * 2 / 9)).all()


def test_regression_is_split_by_environment_and_has_no_classes():
    e = Environments.from_arrays(np.zeros((10, 1)), np.linspace(0, 1, 10), ["A"] * 4 + ["B"] * 6)
    assert e.task == "regression"
    assert e.split(0.5, seed=100)[1].counts == {"A": 2, "B": 3}
    assert e.describe().loc["A", "samples"] == 4
    assert e.describe().loc["B", "max"] == 1.0
    with pytest.raises(DataError, match="no classes"):
        _ = e.classes


def test_task_reads_numbers_as_asked():
    x = np.zeros((3, 1))
    assert Environments.from_arrays(x, [0.0, 1.0, 2.0]).task == "regression"
    assert Environments.from_arrays(x, [0.0, 1.0, 2.0], task="classification").y.dtype == np.int64
    assert Environments.from_arrays(x, [0, 1, 2], task="regression").y.dtype == np.float64
    with pytest.raises(DataError, match=r"row 1: 0\.5 is no class"):
        Environments.from_arrays(x, [0.0, 0.5, 2.0], task="classification")


def test_describe_counts_every_sample_once():
    e = made()
    table = e.describe()
    assert table["samples"].sum() == len(e)
    assert table["samples"].to_dict() == e.counts
    assert (table.drop(columns="samples").sum(axis=1) == table["samples"]).all()


def test_labels_index_classes():
    e = Environments.from_arrays(np.zeros((4, 1)), ["b", "a", "c", "a"])
    assert (e.classes[e.labels] == e.y).all()


def test_environments_are_named_in_the_order_of_numbers():
    e = Environments.from_arrays(np.zeros((3, 1)), [0, 1, 0], [10, 9, 2011])
    assert e.names == ("9", "10", "2011")
    assert Environments.from_arrays(np.zeros((2, 1)), [0, 1], np.array([2011.0, 2012.0])).names == ("2011", "2012")


@pytest.mark.parametrize("wrap", [pd.Series, pd.Categorical, np.array, list, tuple])
def test_labels_and_environments_of_any_container_are_the_same(wrap):
    e = Environments.from_arrays(np.zeros((3, 1)), wrap(["no", "yes", "no"]), wrap(["S", "N", "N"]))
    assert e.y.tolist() == ["no", "yes", "no"]
    assert e.environment_names.tolist() == ["S", "N", "N"]


def test_names_fix_the_order_for_codes_and_for_labels():
    x = np.zeros((2, 1))
    for environment in ([1, 0], ["weak", "strong"]):
        e = Environments.from_arrays(x, [0, 1], environment, names=("strong", "weak"))
        assert e.environment_names.tolist() == ["weak", "strong"]
    with pytest.raises(DataError, match="did you mean 'strong'"):
        Environments.from_arrays(x, [0, 1], ["strng", "weak"], names=("strong", "weak"))


def test_regroup_and_concat_keep_rows_together():
    e = made()
    by_row = e.regroup("row", keep="place")
    assert by_row.environment_names.tolist() == [str(i) for i in range(60)]
    assert (by_row.attributes["place"] == e.environment_names).all()
    back = Environments.concat(e.only("C"), e.only("A"), e.only("B"))
    assert together(back, e)
    assert back.names == ("C", "A", "B")
    with pytest.raises(DataError, match="did you mean 'row'"):
        e.regroup("rows")


def test_map_changes_x_alone_and_keeps_the_number_of_samples():
    e = made()
    f = e.map(lambda x: x + 1)
    assert (f.x == e.x + 1).all()
    assert f.y is e.y
    with pytest.raises(DataError, match="one entry for each of the 1 samples"):
        e.map(lambda x: x[:1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((3, 1)), "y": [0, 1]}, "y must have one entry for each of the 3 samples"),
        ({"x": np.zeros((2, 1)), "y": [0, 1], "environment": ["A"]}, "environment must have one entry"),
        ({"x": np.zeros((2, 1)), "y": [0, 1], "attributes": {"s": [1]}}, "attribute 's' must have one entry"),
        ({"x": np.zeros((2, 1)), "y": [0.0, np.nan]}, "row 1: the label is missing"),
        ({"x": np.zeros((2, 1)), "y": ["a", None]}, "row 1: the label is missing"),
        ({"x": np.zeros((2, 1)), "y": [1.0, np.inf]}, "row 1: the target is infinite"),
        ({"x": np.zeros((2, 1)), "y": ["a", 1]}, r"mixes types: row 0 is 'a' \(str\), row 1 is 1 \(int\)"),
        ({"x": np.zeros((2, 1)), "y": [0, 1], "environment": ["A", None]}, "environment, row 1: it is missing"),
        ({"x": np.zeros((0, 1)), "y": []}, "there are no samples"),
        ({"x": [], "y": []}, "holds no samples"),
        ({"x": np.zeros(2), "y": [0, 1]}, "reshape"),
        ({"x": np.zeros((2, 1, 1, 1, 1)), "y": [0, 1]}, "no known kind"),
        ({"x": [np.zeros((2, 2)), np.zeros((2, 3))], "y": [0, 1]}, r"row 1: a set of shape \(2, 3\)"),
        ({"x": [np.zeros(2), np.zeros(3)], "y": [0, 1]}, r"row 1: shape \(3,\), but row 0"),
        ({"x": ["a", 3], "y": [0, 1]}, "row 1: expected a text"),
        ({"x": [graph(), "a"], "y": [0, 1]}, "row 1: expected a graph"),
        ({"x": pd.DataFrame(np.zeros((2, 2)), columns=["a", "a"]), "y": [0, 1]}, "'a' appears more than once"),
        ({"x": np.zeros((2, 1)), "y": [0, 1], "kind": "image"}, "said to be 'image' but is 'vector'"),
        ({"x": np.zeros((2, 1)), "y": [0, 1], "task": "ranking"}, "task must be"),
        ({"x": {"a": 1}, "y": [0, 1]}, "got dict"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_row(arguments, message):
    with pytest.raises(DataError, match=message):
        Environments.from_arrays(**arguments)


def test_wrong_names_fractions_and_rows_are_refused():
    e = made()
    with pytest.raises(DataError, match="no environment 'D'"):
        e.only("D")
    with pytest.raises(DataError, match="no environment 'D'"):
        e.without("D")
    with pytest.raises(DataError, match="at least one"):
        e.without("A", "B", "C")
    with pytest.raises(ValueError, match="fraction"):
        e.split(1.0)
    with pytest.raises(DataError, match="leaves one of the two parts empty"):
        e.split(0.001)
    with pytest.raises(IndexError, match="row 60"):
        e.subset([60])
    with pytest.raises(DataError, match="length 60"):
        e.subset(np.ones(3, bool))


def test_a_balanced_loader_gives_every_environment_its_share():
    e = Environments.from_arrays(np.arange(100.0)[:, None], [0, 1] * 50, ["A"] * 6 + ["B"] * 24 + ["C"] * 70)
    loader = e.loader(12, balanced=True, seed=100)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader)
    for b in batches:
        counts = np.bincount(b.environment, minlength=3)
        assert counts.max() - counts.min() <= 1
        assert (b.x[:, 0] == b.index).all()
        assert (e.labels[b.index] == b.y.numpy()).all()
    again = e.loader(12, balanced=True, seed=100)
    assert all(torch.equal(p.index, q.index) for p, q in zip(batches, again.epoch(0)))


def test_a_plain_loader_visits_every_row_once_in_a_new_order_each_epoch():
    e = made()
    loader = e.loader(7, balanced=False, seed=100)
    first, second = [torch.cat([b.index for b in loader]) for _ in range(2)]
    assert sorted(first.tolist()) == list(range(60))
    assert sorted(second.tolist()) == list(range(60))
    assert first.tolist() != second.tolist()


def test_a_loader_of_texts_and_tables_gives_them_as_they_are():
    texts = Environments.from_arrays(list("abcd"), [0.5, 1.5, 2.5, 3.5], list("AABB"))
    batch = next(iter(texts.loader(4)))
    assert [texts.x[i] for i in batch.index] == batch.x
    assert batch.y.dtype == torch.float32
    table = Environments.from_arrays(pd.DataFrame({"a": range(4)}), [0, 1, 0, 1])
    assert isinstance(next(iter(table.loader(2))).x, pd.DataFrame)


def test_a_tensor_of_a_read_only_array_shares_memory_without_a_warning():
    e = made()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t = as_tensor(e.x)
    assert t.data_ptr() == e.x.__array_interface__["data"][0]
    assert as_tensor(np.arange(3)[::-1]).tolist() == [2, 1, 0]
    assert as_tensor(e.x[:0]).shape == (0, 1)
