import io

import numpy as np
import pytest
from PIL import Image

from holdfast.core.image_grid import image_grid, png_bytes, save_png


def test_every_image_lies_in_its_place():
    x = np.arange(5 * 3 * 4 * 6).reshape(5, 3, 4, 6).astype(np.uint8)
    grid = image_grid(x, columns=2, gap=1)
    assert grid.shape == (3 * 4 + 2, 2 * 6 + 1, 3)
    for i in range(5):
        r, c = divmod(i, 2)
        np.testing.assert_array_equal(grid[r * 5 : r * 5 + 4, c * 7 : c * 7 + 6], x[i].transpose(1, 2, 0))
    assert (grid[10:, 7:] == 255).all()  # the empty place
    assert (grid[4] == 255).all()


def test_zoom_repeats_pixels_and_floats_are_scaled():
    x = np.array([[[0.0, 1.0], [0.5, 0.25]]])
    np.testing.assert_array_equal(
        image_grid(x, zoom=2)[..., 0], np.array([[0, 255], [128, 64]]).repeat(2, 0).repeat(2, 1)
    )


def test_file_holds_the_picture(tmp_path):
    grid = image_grid(np.random.default_rng(0).integers(0, 255, (4, 8, 8)))
    path = save_png(grid, tmp_path / "deep" / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), grid[..., 0])
    assert np.asarray(Image.open(io.BytesIO(png_bytes(grid.repeat(3, 2))))).shape == grid.shape[:2] + (3,)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros((0, 4, 4)), "images must be"),
        (np.zeros((2, 2, 5, 5)), "1, 3 or 4 channels"),
        (np.full((2, 4, 4), 2.0), r"lie in \[0, 1\]"),
    ],
)
def test_what_is_no_image_is_refused(x, match):
    with pytest.raises(ValueError, match=match):
        image_grid(x)
