"""What is committed is there, whatever happens next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest

from holdfast.data import Environments
from holdfast.study.plan import Cell, SettingInfo
from holdfast.study.sharing import attach, fingerprint, share
from holdfast.study.spec import SpecError
from holdfast.study.store import Outcome, Store, pack_bits, unpack_bits

CELL = Cell("data", "f00", "erm", "erm", {"lr": 0.1}, ("A",), 0, 0, 0.2)
DONE = Outcome("done", "", {"score": 0.123456789012345}, {"A": np.array([True, False] * 33)}, 1.5)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000])
def test_bits_round_trip(n):
    bits = {"é": np.random.default_rng(n).random(n) < 0.5, "B": np.ones(n, bool)}
    back = unpack_bits(pack_bits(bits))
    assert list(back) == list(bits)
    assert all((back[k] == v).all() for k, v in bits.items())


def test_an_outcome_comes_back_exactly(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.put(CELL, DONE)
    again = Store(tmp_path / "s.sqlite").get([CELL])[CELL.key]
    assert again.result == DONE.result
    assert (again.correct["A"] == DONE.correct["A"]).all()


def test_a_success_replaces_a_failure(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.put(CELL, Outcome("failed", "out of luck", {}, {}, 0.1))
    store.put(CELL, DONE)
    assert store.get([CELL])[CELL.key].status == "done"


def test_a_commit_survives_kill_minus_nine_at_once(tmp_path):
    code = f"""
        import os, signal, numpy as np
        from pathlib import Path
        from holdfast.study.plan import Cell
        from holdfast.study.store import Outcome, Store
        store = Store(Path({str(tmp_path / "s.sqlite")!r}))
        cell = Cell("data", "f00", "erm", "erm", {{"lr": 0.1}}, ("A",), 0, 0, 0.2)
        store.put(cell, Outcome("done", "", {{"score": 1.0}}, {{"A": np.ones(3, bool)}}, 0.0))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert Store(tmp_path / "s.sqlite").get([CELL])[CELL.key].result == {"score": 1.0}


def test_any_sqlalchemy_url_is_a_store(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/other.db")
    info = SettingInfo("data", "f00", "vector", {"A": 3}, ["0", "1"])
    store.put_study("one", {"name": "one"}, [info], {"torch": "2"})
    assert store.get_study("one")["settings"] == [info]
    assert store.get_study()["spec"] == {"name": "one"}
    with pytest.raises(LookupError, match="no study named 'two'"):
        store.get_study("two")


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/x.db", "postgresql+nodriver://x/y"])
def test_a_store_that_cannot_be_opened_is_refused_by_field(url):
    with pytest.raises(SpecError, match="store: cannot open"):
        Store(url)


DATA = {
    "vector": np.random.default_rng(0).normal(size=(6, 3)),
    "image": np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4),
    "table": pd.DataFrame({"age": np.arange(6.0), "site": list("abcabc")}),
    "text": ["one", "two", "three", "four", "five", "six"],
    "sets": [np.ones((k + 1, 2)) * k for k in range(6)],
}


@pytest.mark.parametrize("kind", DATA)
def test_shared_data_are_the_data(kind, tmp_path):
    data = Environments.from_arrays(DATA[kind], [0, 1] * 3, list("AABBCC"), {"sex": list("fmfmfm")})
    back = attach(share(data, tmp_path / "x.data"))
    assert fingerprint(back) == fingerprint(data)
    assert back.names == data.names
    assert back.attributes["sex"].tolist() == data.attributes["sex"].tolist()


def test_shared_arrays_are_mapped_not_copied(tmp_path):
    data = Environments.from_arrays(np.zeros((1000, 50)), [0, 1] * 500)
    back = attach(share(data, tmp_path / "x.data"))
    assert not back.x.flags.owndata
    assert not back.x.flags.writeable


@pytest.mark.parametrize("kind", DATA)
def test_the_fingerprint_changes_with_one_sample_one_label_or_one_environment(kind):
    def of(y=(0, 1, 0, 1, 0, 1), e="AABBCC", x=DATA[kind]):
        return fingerprint(Environments.from_arrays(x, list(y), list(e)))

    x = DATA[kind]
    moved = x[::-1] if not isinstance(x, pd.DataFrame) else x.iloc[::-1]
    assert len({of(), of(y=(1, 1, 0, 1, 0, 1)), of(e="ABBBCC"), of(x=moved)}) == 4
    assert of() == of()
