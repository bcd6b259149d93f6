import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import style


@pytest.fixture
def figure():
    drawing, (axes,) = style.new_drawing()
    with style.styled():
        axes.plot([1, 2, 3], [0.5, 0.2, 0.05])
        style.log_scale(axes, percent=True)
        style.label_ends(axes, [("baseline", style.BLACK, 3, 0.05), ("cutout", style.BLUE, 3, 0.05)])
    return style.Figure("Error & epoch", 'Falls from 50 % to 5 % \\1 <fast> "now"', "A caption.", drawing)


def test_an_svg_has_title_and_description_for_screen_readers(figure):
    root = ElementTree.fromstring(style.svg(figure))
    name = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{name}title").text == "Error & epoch"
    assert root.find(f"{name}desc").text == figure.alt
    assert root.get("role") == "img"


def test_an_svg_loads_nothing(figure):
    references = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', style.svg(figure))
    assert references
    assert all("".join(r).startswith("#") for r in references)


def test_saving_twice_gives_the_same_files(figure, tmp_path):
    first = style.save(figure, tmp_path / "a", "error")
    second = style.save(figure, tmp_path / "b", "error")
    assert [p.suffix for p in first] == [".png", ".svg", ".pdf"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_arms_of_the_sheet_keep_their_colour_in_any_company():
    alone, together = style.colours(["cutout M=4"]), style.colours(["mine", "baseline", "cutout M=4"])
    assert alone["cutout M=4"] == together["cutout M=4"]


@given(st.lists(st.text(min_size=1), max_size=8, unique=True))
def test_up_to_eight_arms_have_different_colours(names):
    chosen = style.colours(names)
    assert len(set(chosen.values())) == len(names)


def test_arms_of_one_problem_have_different_colours():
    assert len(set(style.colours(a for a in style.ARM_COLOURS if "=" in a or a == "baseline").values())) == 7


@given(st.lists(st.floats(-1000, 1000), max_size=12), st.floats(0.1, 50))
def test_labels_end_up_apart_and_in_order(wanted, gap):
    placed = style.spread(wanted, gap)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert all(placed[b] - placed[a] >= gap - 1e-6 for a, b in itertools.pairwise(order))


@given(st.lists(st.floats(-1000, 1000), max_size=12))
def test_labels_that_have_room_between_bounds_stay_within(wanted):
    placed = style.spread(wanted, 15, 0, 180)
    assert all(-1e-6 <= place <= 180 + 1e-6 for place in placed)


@given(st.lists(st.integers(0, 50).map(lambda i: 20.0 * i), unique=True, max_size=12))
def test_labels_that_are_apart_stay_where_they_are(wanted):
    assert style.spread(wanted, 15) == pytest.approx(wanted)


@given(st.floats(1e-6, 1e3), st.floats(1.3, 1e8))
def test_a_logarithmic_axis_has_ticks_at_round_numbers(low, factor):
    high = low * factor
    ticks = [t for t in style.PlainTicks().tick_values(low, high) if low <= t <= high * (1 + 1e-9)]
    assert 2 <= len(ticks) <= 15
    assert all(float(f"{t:.3g}") == pytest.approx(t) for t in ticks)
