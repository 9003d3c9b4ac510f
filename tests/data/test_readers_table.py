"""Tables: what is read is what was written, and every refusal names the place and the fix."""

from __future__ import annotations

import gzip
import json
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.data import DataError, DataWarning, column_types, iter_table, read_frame, read_table
from holdfast.data.readers import stream


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(100)
    n = 60
    x = pd.DataFrame(
        {
            "age": rng.integers(20, 80, n).astype(float),
            "dose": rng.normal(size=n),
            "drug": np.array(["a", "b", "c"])[rng.integers(0, 3, n)],
            "smoker": rng.integers(0, 2, n).astype(bool),
            "visit": pd.date_range("2020-01-01", periods=n // 2).repeat(2).astype(str),
            "sex": np.array(["f", "m"])[rng.integers(0, 2, n)],
            "hospital": np.repeat(["N", "S", "W"], n // 3),
            "ill": np.tile(["no", "yes"], n // 2),
        }
    )
    x.loc[3, "age"] = np.nan
    x.loc[5, "drug"] = None
    return x


def write(frame: pd.DataFrame, path) -> None:
    name = path.name
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif ".jsonl" in name:
        frame.to_json(path, orient="records", lines=True, double_precision=15)
    elif ".json" in name:
        frame.to_json(path, orient="records", double_precision=15)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet", "t.jsonl", "t.jsonl.gz", "t.json"])
def test_every_format_gives_the_same_table(tmp_path, frame, name):
    write(frame, tmp_path / name)
    e = read_table(tmp_path / name, label="ill", environment="hospital", attributes=["sex"])
    assert e.counts == {"N": 20, "S": 20, "W": 20}
    assert e.y.tolist() == frame["ill"].tolist()
    assert e.attributes["sex"].tolist() == frame["sex"].tolist()
    assert list(e.x.columns) == ["age", "dose", "drug", "smoker", "visit"]
    np.testing.assert_allclose(e.x["dose"], frame["dose"], rtol=1e-9)
    np.testing.assert_array_equal(e.x["age"], frame["age"])
    np.testing.assert_array_equal(e.x["smoker"], frame["smoker"].astype(float))
    assert np.isnan(e.x["age"][3])
    assert pd.isna(e.x["drug"][5])
    if name.startswith(("t.csv", "t.tsv")):
        assert pd.api.types.is_datetime64_any_dtype(e.x["visit"])


def test_numbers_are_float_and_codes_are_text_when_asked(tmp_path):
    p = tmp_path / "a.csv"
    p.write_text("zip,n,y\n01234,1,0\n04321,2,1\n01234,3,0\n00001,4,1\n")
    assert read_table(p, label="y").x.dtypes.tolist() == [np.float64, np.float64]
    x = read_table(p, label="y", categorical=["zip"]).x
    assert x["zip"].tolist() == ["01234", "04321", "01234", "00001"]


def test_a_quoted_cell_may_hold_the_separator_and_line_breaks(tmp_path):
    p = tmp_path / "a.csv"
    p.write_text('c,y\n"one, two",0\n"three\nfour",1\n"one, two",1\n')
    assert read_table(p, label="y", task="classification").x["c"].tolist() == ["one, two", "three\nfour", "one, two"]


def test_semicolons_byte_order_marks_and_other_encodings_are_read(tmp_path):
    p = tmp_path / "a.csv"
    p.write_bytes("größe;y\n1,5;ja\n2,5;nein\n".encode("utf-8-sig"))
    assert list(read_table(p, label="y").x.columns) == ["größe"]
    p.write_bytes("ort,y\nMünchen,ja\nKöln,nein\n".encode("latin-1"))
    assert read_table(p, label="y", encoding="latin-1").x["ort"].tolist() == ["München", "Köln"]
    with pytest.raises(DataError, match="encoding="):
        read_table(p, label="y")


def test_columns_and_drop_choose_the_features_and_attributes_may_be_both(tmp_path, frame):
    p = tmp_path / "a.csv"
    write(frame, p)
    arguments = {"label": "ill", "environment": "hospital"}
    assert list(read_table(p, columns=["dose", "age"], **arguments).x.columns) == ["dose", "age"]
    assert "visit" not in read_table(p, drop=["visit"], **arguments).x.columns
    both = read_table(p, columns=["sex", "age"], attributes=["sex"], **arguments)
    assert both.x["sex"].tolist() == both.attributes["sex"].tolist()


def test_a_saved_row_index_and_empty_columns_are_left_out_with_a_note(tmp_path):
    p = tmp_path / "a.csv"
    pd.DataFrame({"a": [1, 2, 3, 4], "e": [None] * 4, "y": [0, 1, 0, 1]}).to_csv(p)
    with pytest.warns(DataWarning) as caught:
        e = read_table(p, label="y")
    assert list(e.x.columns) == ["a"]
    assert any("no name" in str(w.message) for w in caught)
    assert any("'e' has no value" in str(w.message) for w in caught)


def test_a_class_absent_from_an_environment_is_a_note_with_both_names(tmp_path):
    p = tmp_path / "a.csv"
    p.write_text("a,site,y\n1,N,no\n2,N,yes\n3,S,no\n4,S,no\n")
    with pytest.warns(DataWarning, match="'yes' from 'S'"):
        read_table(p, label="y", environment="site")


def test_a_copy_of_the_label_and_an_identifier_are_noticed(tmp_path):
    p = tmp_path / "a.csv"
    rows = [f"{i // 3},p{i},{i % 2},{i % 2},{'NS'[i // 2 % 2]}" for i in range(40)]
    p.write_text("\n".join(["age,who,leak,y,site", *rows]))
    with pytest.warns(DataWarning) as caught:
        read_table(p, label="y", environment="site")
    said = " ".join(str(w.message) for w in caught)
    assert "'leak' equals the label 'y'" in said
    assert "'who' has another text in every row" in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_table(p, label="y", environment="site", drop=["leak", "who"])


def test_the_label_decides_the_task(tmp_path):
    p = tmp_path / "a.csv"
    rows = [f"{i},{i},{i / 7:.3f},{i % 2}.0,{i % 3}" for i in range(60)]
    p.write_text("\n".join(["a,many,real,whole,three", *rows]))
    assert read_table(p, label="real", columns=["a"]).task == "regression"
    assert read_table(p, label="whole", columns=["a"]).y.dtype == np.int64
    assert read_table(p, label="three", columns=["a"]).classes.tolist() == [0, 1, 2]
    assert read_table(p, label="three", columns=["a"], task="regression").task == "regression"
    with pytest.raises(DataError, match="60 different numbers in 60 rows are probably regression targets"):
        read_table(p, label="many", columns=["real"])
    assert read_table(p, label="many", columns=["real"], task="regression").task == "regression"
    assert len(read_table(p, label="many", columns=["real"], task="classification").classes) == 60


BAD = [
    ("a,y,site\n1,0,N\n2,1,N\n", {}, "column 'site': one environment only, 'N' in all 2 rows"),
    ("a,y,site\n1,0,N\n2,,S\n", {}, r"column 'y', row 1 \(line 3\): the label is missing \(1 of 2"),
    ("a,y,site\n1,0,N\n2,1,\n", {}, r"column 'site', row 1 \(line 3\): the environment is missing"),
    ("a,y,site\n1,0,N\n2,0,S\n", {}, "column 'y': the label is 0 in all 2 rows"),
    ("a,y,hospital\n1,0,N\n2,1,S\n", {"environment": "hopsital"}, "no column 'hopsital'.*did you mean 'hospital'"),
    ("a,y,site\n1,0,N\n2,1,S\n", {"label": "z"}, "no column 'z'.*there is 'a', 'y', 'site'"),
    ("a,y,site,a\n1,0,N,1\n2,1,S,1\n", {}, "column 'a' appears more than once"),
    ("a,y,site\n1,0,N\n2,1,S\n", {"columns": ["a", "y"]}, "'y' is the label and cannot be a feature"),
    ("a,y,site\n1,0,N\n2,1,S\n", {"columns": ["a", "site"]}, "'site' is the environment and cannot be a feature"),
    ("a,y,site\n1,0,N\n2,1,S\n", {"environment": "y"}, "'y' cannot be both the label and the environment"),
    ("a,y,site\n1,0,N\n2,1,S\n", {"attributes": ["y"]}, "'y' is the label and cannot be an attribute"),
    ("a,y,site\n1,0,N\n2,1,S\n", {"attributes": "a"}, r"write \['a'\]"),
    ("a,y,site\n1,0,N\n2,1,S\n", {"drop": ["a"]}, "no feature columns left"),
    ("", {}, "is empty"),
    ("\n", {}, "is empty"),
    ("a,y,site\n", {}, "a header but no rows"),
    ("a,y,site\n1,0,N\n2,1,S,9\n", {}, "malformed row: expected 3 columns, got 4"),
    (
        "a,y,site\n" + "".join(f"{i},{i % 2},{'NS'[i // 2 % 2]}\n" for i in range(30)) + "12?,1,N\n",
        {},
        r"'a', row 30 \(line 32\): '12\?' in a column of numbers \(30 of 31 are\).*missing=\['12\?'\].*categorical",
    ),
    (
        "a,y,site\n" + "".join(f"{i},t{i},{'NS'[i % 2]}\n" for i in range(30)),
        {},
        "30 different texts in 30 rows can hardly be classes",
    ),
    ("a,y,site\n" + "".join(f"{i},{i % 2},s{i}\n" for i in range(30)), {}, "30 environments in 30 rows"),
]


@pytest.mark.parametrize(("content", "arguments", "message"), BAD)
def test_bad_tables_are_refused_with_the_place_and_the_fix(tmp_path, content, arguments, message):
    p = tmp_path / "bad.csv"
    p.write_text(content)
    with pytest.raises(DataError, match=message):
        read_table(p, **{"label": "y", "environment": "site", **arguments})


def test_the_fixes_that_the_messages_name_work(tmp_path):
    p = tmp_path / "a.csv"
    rows = [f"{i},{i % 2},{'NS'[i // 2 % 2]}" for i in range(30)]
    p.write_text("\n".join(["a,y,site", *rows, "?,1,N"]))
    assert np.isnan(read_table(p, label="y", environment="site", missing=["?"]).x["a"][30])
    with pytest.warns(DataWarning, match="identifier"):
        assert read_table(p, label="y", environment="site", categorical=["a"]).x["a"][30] == "?"
    p.write_text("a,y,site\n1,0,N\n2,1,N\n")
    assert read_table(p, label="y", columns=["a"]).names == ("all",)


def test_absent_and_broken_files_are_refused(tmp_path):
    (tmp_path / "visits.csv").write_text("a,y\n1,0\n")
    with pytest.raises(DataError, match=r"did you mean 'visits\.csv'"):
        read_table(tmp_path / "visit.csv", label="y")
    for name, content, message in [
        ("a.parquet", b"no parquet", "cannot be read"),
        ("a.csv.gz", b"no gzip", "cannot be read"),
        ("a.jsonl", b"{no json", "no valid JSON lines"),
        ("a.json", b"{no json", "no valid JSON"),
        ("a.json", b"[1, 2]", "list of records"),
        ("a.xlsx", b"excel", "no known type"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_table(tmp_path / name, label="y")


def test_nested_parquet_columns_are_refused(tmp_path):
    pq.write_table(pa.table({"a": [[1, 2], [3]], "y": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="'a' holds nested values"):
        read_table(tmp_path / "a.parquet", label="y")


def test_a_frame_is_read_like_the_file_it_would_make(tmp_path, frame):
    write(frame, tmp_path / "a.parquet")
    by_file = read_table(tmp_path / "a.parquet", label="ill", environment="hospital", attributes=["sex"])
    by_frame = read_frame(frame, label="ill", environment="hospital", attributes=["sex"])
    pd.testing.assert_frame_equal(by_file.x, by_frame.x)
    assert (by_file.y == by_frame.y).all()
    categories = read_frame(frame.assign(drug=frame["drug"].astype("category")), label="ill", environment="hospital")
    assert categories.x["drug"].dropna().tolist() == frame["drug"].dropna().tolist()


def test_a_frame_column_of_mixed_types_is_refused_with_the_row():
    frame = pd.DataFrame({"a": pd.Series([1, 2, "three"], dtype=object), "y": [0, 1, 0]}).set_axis([5, 6, 7])
    with pytest.raises(DataError, match=r"column 'a', row 2: 'three' \(str\) in a column of int"):
        read_frame(frame, label="y")
    assert read_frame(frame, label="y", categorical=["a"]).x["a"].tolist() == ["1", "2", "three"]


# In chunks


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 60, 1000])
def test_chunks_joined_equal_the_whole_with_the_same_types(tmp_path, frame, name, chunk_rows):
    frame["time"] = [f"{h % 24:02d}:30" for h in range(60)]
    write(frame, tmp_path / name)
    whole = read_table(tmp_path / name, label="ill", environment="hospital").x
    types = column_types(tmp_path / name)
    chunks = list(iter_table(tmp_path / name, columns={c: types[c] for c in whole.columns}, chunk_rows=chunk_rows))
    assert [len(c) for c in chunks[:-1]] == [chunk_rows] * (len(chunks) - 1)
    assert all((c.dtypes == chunks[0].dtypes).all() for c in chunks)
    pd.testing.assert_frame_equal(pd.concat(chunks, ignore_index=True), whole)


def test_a_type_given_holds_in_every_chunk_whatever_it_looks_like(tmp_path):
    p = tmp_path / "a.csv"
    p.write_text("n,c\n" + "".join(f"{'' if i < 50 else i},{i if i < 50 else 'x'}\n" for i in range(100)))
    chunks = list(iter_table(p, columns={"n": "number", "c": "text"}, chunk_rows=10))
    assert {str(c["n"].dtype) for c in chunks} == {"float64"}
    assert chunks[0]["n"].isna().all()
    assert chunks[0]["c"].tolist() == [str(i) for i in range(10)]
    assert len({c["c"].dtype for c in chunks}) == 1
    assert column_types(p) == {"n": "number", "c": "text"}


def test_types_are_of_the_whole_file_not_of_its_beginning(tmp_path):
    p = tmp_path / "a.csv"
    late = "".join(f"{i},true,2020-01-01,{i % 9}\n" for i in range(300_000))
    p.write_text("n,b,t,late\n" + late + "1,false,2020-01-02,word\n")
    assert column_types(p) == {"n": "number", "b": "number", "t": "time", "late": "text"}
    whole = read_table(p, label="b", columns=["n", "t", "late"], categorical=["late"])
    assert whole.x["late"].iloc[-1] == "word"


def test_a_cell_of_the_wrong_type_is_named(tmp_path):
    p = tmp_path / "a.csv"
    p.write_text("n,c\n1,a\noops,b\n")
    with pytest.raises(DataError, match=r"column 'n', row 1 \(line 3\): 'oops' is no number"):
        list(iter_table(p, columns={"n": "number"}))
    p.write_text("n,c\n" + "1,a\n" * 200_000 + "oops,b\n")
    with pytest.raises(DataError, match=r"row 200000 \(line 200002\): 'oops'"):
        list(iter_table(p, columns={"n": "number"}))
    with pytest.raises(DataError, match="did you mean 'n'"):
        iter_table(p, columns={"N": "number"})
    with pytest.raises(ValueError, match="must be one of"):
        iter_table(p, columns={"n": "float"})
    pq.write_table(pa.table({"n": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="'n' was to be numbers"):
        list(iter_table(tmp_path / "a.parquet", columns={"n": "number"}))


def test_dates_that_a_typed_file_keeps_as_texts_are_dates_where_dates_are_wanted(tmp_path):
    p = tmp_path / "a.parquet"
    pq.write_table(pa.table({"day": ["2024-01-31", None, "2024-02-01"]}), p)
    (chunk,) = iter_table(p, columns={"day": "time"})
    assert chunk["day"].tolist() == [pd.Timestamp("2024-01-31"), pd.NaT, pd.Timestamp("2024-02-01")]
    pq.write_table(pa.table({"day": ["2024-01-31", "soon"]}), p)
    with pytest.raises(DataError, match="column 'day' was to be dates but holds 'soon'"):
        list(iter_table(p, columns={"day": "time"}))


def test_streaming_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_BLOCK", 1 << 16)
    line = ",".join(["0.123456"] * 20) + "\n"
    header = ",".join(f"f{i}" for i in range(20)) + "\n"
    peaks = []
    for copies in (60_000, 240_000):
        p = tmp_path / f"{copies}.csv"
        with p.open("w") as f:
            f.write(header)
            for _ in range(copies // 1000):
                f.write(line * 1000)
        pool, rows, peak = pa.default_memory_pool(), 0, 0
        start = pool.bytes_allocated()
        for chunk in iter_table(p, columns={f"f{i}": "number" for i in range(20)}, chunk_rows=4096):
            rows += len(chunk)
            peak = max(peak, pool.bytes_allocated() - start)
        assert rows == copies
        peaks.append(peak)
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 0.25 * 240_000 * len(line)


def test_gzip_and_json_of_the_same_rows_agree(tmp_path):
    rows = [{"a": i, "y": i % 2} for i in range(4)]
    (tmp_path / "a.json").write_text(json.dumps({"a": [r["a"] for r in rows], "y": [r["y"] for r in rows]}))
    with gzip.open(tmp_path / "b.json.gz", "wt") as f:
        json.dump(rows, f)
    a, b = (read_table(tmp_path / n, label="y") for n in ("a.json", "b.json.gz"))
    pd.testing.assert_frame_equal(a.x, b.x)
