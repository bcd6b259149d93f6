import numpy as np
import pytest

from analysis import cutout


def test_the_mean_hidden_area_is_that_of_the_papers_code():
    areas = [cutout.mask(r, c).mean() for r in range(32) for c in range(32)]
    assert np.mean(areas) == pytest.approx(0.1914, abs=5e-5)
    assert np.mean(np.isclose(areas, 0.25)) == pytest.approx(0.282, abs=5e-4)
    assert min(areas) == 8 * 8 / 1024


@pytest.mark.parametrize(("row", "column", "length"), [(0, 0, 16), (31, 4, 16), (15, 16, 8), (9, 30, 5)])
def test_the_square_is_where_the_trials_have_it(row, column, length):
    torch = pytest.importorskip("torch")
    from trials.augment import holes

    expected = holes(torch.tensor([row]), torch.tensor([column]), length)[0].numpy()
    assert (cutout.mask(row, column, length) == expected).all()


def test_what_is_outside_the_square_stays():
    image = cutout.drawn_pictures()[0]
    changed = (cutout.cut(image, 16, 16) != image).any(axis=2)
    assert not (changed & ~cutout.mask(16, 16)).any()


def test_the_places_of_the_figure_are_drawn_and_the_same_each_time():
    places = cutout.centres()
    assert places == cutout.centres()
    assert [len(own) for own in places] == [3, 3]
    assert all(0 <= at < cutout.SIZE for own in places for place in own for at in place)


def test_without_images_the_figure_says_why():
    figure = cutout.before_and_after(without_images="for they are elsewhere")
    assert "at a random place of each image (two drawn pictures, for they are elsewhere)" in figure.caption
    assert "drawn with seed 0" in figure.source.note


def test_given_images_are_drawn_and_named():
    images = np.zeros((2, 32, 32, 3), np.uint8)
    figure = cutout.before_and_after(images, "two black squares")
    assert "two black squares" in figure.caption
    assert (figure.drawing.axes[0].images[0].get_array() == 0).all()
