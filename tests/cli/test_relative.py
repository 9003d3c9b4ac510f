from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import ortho_group
from typer.testing import CliRunner

from holdfast.cli.relative import app

run = CliRunner().invoke


@pytest.fixture
def spaces(tmp_path):
    z = np.random.default_rng(100).normal(size=(300, 12))
    np.save(tmp_path / "a.npy", z)
    np.save(tmp_path / "b.npy", 5 * z @ ortho_group.rvs(12, random_state=1))
    np.save(tmp_path / "wide.npy", np.pad(z, ((0, 0), (0, 3))))
    return tmp_path


def _rows(*args):
    result = run(app, ["compare", *args, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_a_rotated_space_is_found_relatively_and_by_rotation_but_not_as_it_is(spaces):
    out = _rows(f"{spaces}/a.npy", f"{spaces}/b.npy", "--anchors", "40", "--k", "3", "--seeds", "4")
    rows = {name: row["mrr"]["mean"] for name, row in out["rows"].items()}
    assert rows["relative"] == pytest.approx(1.0)
    assert rows["procrustes"] == pytest.approx(1.0)
    chance = (1 / np.arange(1, 301)).sum() / 300
    assert rows["absolute"] < 5 * chance
    assert rows["permuted"] < 5 * chance
    assert out["rows"]["relative"]["jaccard"]["mean"] == pytest.approx(1.0)
    assert out["linear_cka"] == pytest.approx(1.0, abs=1e-6)


def test_spaces_of_different_width_have_no_absolute_row(spaces):
    out = _rows(f"{spaces}/a.npy", f"{spaces}/wide.npy", "--anchors", "40", "--seeds", "1")
    assert set(out["rows"]) == {"relative", "procrustes", "permuted"}
    assert out["rows"]["relative"]["mrr"] == {"mean": pytest.approx(1.0), "half_width": None}


def test_the_table_names_all_rows(spaces):
    result = run(app, ["compare", f"{spaces}/a.npy", f"{spaces}/b.npy", "--anchors", "40", "--seeds", "2"])
    assert result.exit_code == 0
    for word in ("absolute", "relative", "procrustes", "permuted", "Jaccard@5", "±", "linear CKA"):
        assert word in result.output


def test_projections_by_one_anchor_file_agree_across_spaces(spaces):
    ids = f"{spaces}/ids.json"
    first = ["project", f"{spaces}/a.npy", "-o", f"{spaces}/ra.npy", "--anchors", "20", "--save-anchors", ids]
    assert run(app, first).exit_code == 0
    second = run(app, ["project", f"{spaces}/b.npy", "-o", f"{spaces}/rb.npy", "--anchor-file", ids])
    assert second.exit_code == 0, second.output
    assert "300 items, 20 anchors" in second.output
    ra, rb = np.load(spaces / "ra.npy"), np.load(spaces / "rb.npy")
    assert ra.shape == (300, 20)
    np.testing.assert_allclose(ra, rb, atol=1e-6)


def test_bad_input_is_named(spaces, tmp_path):
    short = tmp_path / "short.npy"
    np.save(short, np.zeros((5, 12)))
    np.savez(tmp_path / "many.npz", a=np.zeros(3))
    broken = tmp_path / "broken.json"
    broken.write_text('{"rows": [1]}')
    cases = {
        "no file at": ["compare", f"{spaces}/a.npy", f"{spaces}/none.npy"],
        "z1 has 300, z2 has 5": ["compare", f"{spaces}/a.npy", str(short), "--anchors", "2"],
        "k=500 anchors cannot be drawn from 300": ["compare", f"{spaces}/a.npy", f"{spaces}/b.npy", "--anchors", "500"],
        "archive of arrays": ["compare", f"{spaces}/a.npy", f"{tmp_path}/many.npz"],
        "not an anchor file": ["project", f"{spaces}/a.npy", "-o", f"{tmp_path}/r.npy", "--anchor-file", str(broken)],
        "seeds must be in": ["compare", f"{spaces}/a.npy", f"{spaces}/b.npy", "--seeds", "0"],
    }
    for message, args in cases.items():
        result = run(app, args)
        assert result.exit_code != 0
        assert message in str(result.exception)
