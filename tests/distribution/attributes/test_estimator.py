from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from holdfast.data.worlds.faces import make_attribute_faces
from holdfast.distribution.attributes import AttributeGenerator

FACES = make_attribute_faces(300, 12, seed=100)
TABLE = pd.DataFrame(FACES.c, columns=list(FACES.names))
OPTIONS = {"width": 32, "latent": 3, "steps": 30, "batch_size": 32, "random_state": 100, "device": "cpu"}


@pytest.fixture(scope="module")
def model():
    return AttributeGenerator(**OPTIONS).fit(FACES.x, TABLE)


@pytest.fixture(scope="module")
def patient():
    """Trained with attributes hidden."""
    return AttributeGenerator(hide=0.2, **OPTIONS).fit(FACES.x, TABLE)


def test_constructor_stores_and_fit_leaves_it_alone(model):
    assert clone(model).get_params() == model.get_params()


def test_the_same_seed_draws_the_same_images(model):
    a, b = (model.sample(TABLE[:3], 2, random_state=7) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, model.sample(TABLE[:3], 2, random_state=8))


def test_saved_models_draw_the_same_images(model, patient, tmp_path):
    for k, m in enumerate((model, patient)):
        again = AttributeGenerator.load(m.save(tmp_path / f"{k}.holdfast"))
        np.testing.assert_array_equal(
            again.sample({"glasses": 1}, 3, random_state=1), m.sample({"glasses": 1}, 3, random_state=1)
        )
        np.testing.assert_array_equal(again.transform(FACES.x, TABLE), m.transform(FACES.x, TABLE))


def test_integer_images_are_read_as_fractions_of_255(model):
    grey = np.rint(255 * FACES.x[:5]).astype(np.uint8)
    np.testing.assert_allclose(
        model.reconstruct(grey, TABLE[:5]), model.reconstruct(grey.astype(np.float32) / 255, TABLE[:5]), atol=1e-6
    )


def test_a_request_that_leaves_out_what_training_always_knew_is_filled_from_rows_that_agree(model):
    values, known = np.array([[1.0, 0, 0, 0, 0]] * 400), np.array([[True, False, False, False, False]] * 400)
    filled = model._filled(torch.tensor(values).float(), torch.tensor(known), 100).numpy()
    assert (filled[:, 0] == 1).all()
    agree = FACES.c[FACES.c[:, 0] == 1]
    assert {tuple(r) for r in filled} <= {tuple(r) for r in agree}
    assert np.abs(filled.mean(0) - agree.mean(0)).max() < 4.5 * 0.5 / 20


def test_a_model_that_saw_missing_attributes_is_told_what_is_missing(patient):
    table = TABLE[:3].copy()
    table.loc[:, "beard"] = np.nan
    other = table.assign(beard=[0.0, 1.0, np.nan])
    a, b = (patient.sample(t, 1, random_state=5) for t in (table, other))
    np.testing.assert_allclose(a[2], b[2], atol=1e-6)
    assert not np.allclose(a[1], b[1])
    assert patient.sample({"hat": 1}, 2, random_state=5).shape == (1, 2, 1, 12, 12)


def test_an_edit_to_the_same_attributes_is_the_reconstruction(model, patient):
    for m in (model, patient):
        np.testing.assert_allclose(
            m.edit(FACES.x[:5], TABLE[:5], TABLE[:5]), m.reconstruct(FACES.x[:5], TABLE[:5]), atol=1e-6
        )


def test_one_request_edits_every_image_and_leaves_the_other_attributes(model):
    np.testing.assert_allclose(
        model.edit(FACES.x[:5], TABLE[:5], {"hat": 1}),
        model.edit(FACES.x[:5], TABLE[:5], TABLE[:5].assign(hat=1.0)),
        atol=1e-6,
    )


def test_resampling_has_the_frequencies_that_were_asked_for_and_breaks_links(model):
    images, c = model.resample(2000, {"glasses": 0.9, "hat": 0.2}, random_state=1)
    assert images.shape == (2000, 1, 12, 12)
    assert abs(c[:, 0].mean() - 0.9) < 4.5 * 0.3 / 2000**0.5
    assert abs(c[:, 1].mean() - 0.2) < 4.5 * 0.4 / 2000**0.5
    assert abs(np.corrcoef(c[:, 0], c[:, 2])[0, 1]) < 4.5 / 2000**0.5


def test_likelihood_of_more_latents_is_no_smaller_on_average(model):
    few, many = (model.log_likelihood(FACES.x[:50], TABLE[:50], S, random_state=2).mean() for S in (1, 100))
    assert few < many


def test_a_value_that_training_never_had_is_warned_of():
    c = FACES.c.copy()
    c[:, 1] = 0
    model = AttributeGenerator(**OPTIONS).fit(FACES.x, pd.DataFrame(c, columns=list(FACES.names)))
    with pytest.warns(UserWarning, match="hat = 1 is asked for, but occurs in 0 of 300 training rows"):
        model.sample({"hat": 1})


def test_a_number_outside_the_range_of_training_is_warned_of():
    table = TABLE.assign(age=np.linspace(20, 60, 300))
    model = AttributeGenerator(continuous=["age"], **OPTIONS).fit(FACES.x, table)
    with pytest.warns(UserWarning, match="age is asked for outside the range of training, 20 to 60"):
        model.sample({"age": 61})


@pytest.mark.parametrize(
    ("x", "c", "message"),
    [
        (FACES.x + 1, TABLE, r"floats in \[0, 1\], got 1 to"),
        (FACES.x[:10], TABLE, "one row of attributes for every image"),
        (FACES.x, TABLE.assign(age=30.0), "attribute 'age' must be 0 or 1, but row 0 has 30; name it in continuous"),
        (FACES.x, TABLE * 0, "nothing to condition on"),
        (FACES.x, TABLE.assign(name="a"), "'name' holds no numbers"),
        (FACES.x, TABLE.replace({"hat": {1.0: np.inf}}), "infinity"),
        (np.where(FACES.x > 0.9, np.nan, FACES.x), TABLE, "X must be finite"),
    ],
)
def test_data_that_make_no_sense_are_refused(x, c, message):
    with pytest.raises(ValueError, match=message):
        AttributeGenerator(**OPTIONS).fit(x, c)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample({"glases": 1}), "no attribute 'glases'; did you mean 'glasses'"),
        (lambda m: m.sample(np.zeros((1, 4))), "5 columns"),
        (lambda m: m.sample({"hat": 2}), "attribute 'hat' must be 0 or 1, but row 0 has 2"),
        (lambda m: m.sample({"hat": 1}, temperature=0), "temperature must be in"),
        (lambda m: m.sample({"hat": 1}, 0), "n must be in"),
        (lambda m: m.reconstruct(FACES.x[:, :, :10], TABLE), r"images must have shape \(n, 1, 12, 12\)"),
        (lambda m: m.reconstruct(FACES.x[:1], {"hat": 1}), "saw no missing attributes"),
        (lambda m: m.resample(5, {"hat": 1.5}), "probability of hat must be in"),
        (lambda m: m.resample(5, {"cap": 0.5}), "law"),
    ],
)
def test_requests_that_make_no_sense_are_refused(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_options_that_make_no_sense_are_refused():
    for options, message in (
        ({"beta": -1.0}, "beta must be in"),
        ({"latent": 0}, "must be in"),
        ({"network": "transformer"}, "network"),
        ({"continuous": ["age"]}, "continuous"),
        ({"network": "conv"}, "multiples of 16"),
    ):
        with pytest.raises(ValueError, match=message):
            AttributeGenerator(**{**OPTIONS, **options}).fit(FACES.x, TABLE)
