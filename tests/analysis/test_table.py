import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import table
from analysis.stats import NOTHING, Estimate

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(numbers, st.integers(-(2**53), 2**53)), min_size=1))
def test_csv_gives_the_numbers_back(rows):
    frame = pd.DataFrame(rows, columns=["error", "epoch"])
    back = pd.read_csv(io.StringIO(table.plain_table("t", frame).csv()))
    pd.testing.assert_frame_equal(back, frame, check_exact=True)


def test_an_estimate_goes_into_columns_and_back():
    estimate = Estimate(0.06, 0.05, 0.07, 3)
    assert table.estimate_of(table.estimate_columns("error", estimate), "error") == estimate


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.0581, 0.0561, 0.0602, 3), "5.81 (5.61 to 6.02)"),
        (Estimate(0.0581, float("nan"), float("nan"), 1), "5.81"),
        (NOTHING, "–"),
        (Estimate(0.82, 0.82, 0.82, 3), "82.00 (all 3)"),
        (Estimate(-0.007, -0.0206, 0.0066, 3), "−0.70 (−2.06 to 0.66)"),
    ],
)
def test_an_estimate_is_written_with_what_is_known_of_it(estimate, text):
    assert table.estimate_text(estimate, ".2f", 100).replace("\N{NO-BREAK SPACE}", " ") == text


def test_markdown_cells_cannot_break_the_table():
    made = table.plain_table("t", pd.DataFrame({"why": ["a|b\nc*d_e"]})).markdown()
    assert made.splitlines()[2] == r"| a\|b c\*d\_e |"


def test_latex_cells_are_escaped():
    made = table.plain_table("t", pd.DataFrame({"why": ["50 % of a_b & \\c"]})).latex()
    assert r"50 \% of a\_b \& \textbackslash{}c \\" in made


def test_latex_says_below_what_its_marks_mean():
    marks = ["† pieced together", "‡ not to be told from zero", "§ under 10 iterations"]
    made = table.plain_table("t", pd.DataFrame({"x": ["1 †", "2 ‡", "3 §"]}), notes=marks).latex()
    below = [line for line in made.split(r"\end{tabular}")[1].splitlines() if not line.startswith("%")]
    assert made.isascii()
    assert below[3:-1] == [
        r"$^\dagger$ pieced together\par", r"$^\ddagger$ not to be told from zero\par", r"\S{} under 10 iterations\par",
    ]  # fmt: skip


def test_a_table_says_what_all_means_where_a_cell_has_it():
    columns = (table.estimate_column("Epochs", "epochs", ",.0f"),)
    for estimate, told in ((Estimate(82, 82, 82, 3), True), (Estimate(83, 82, 84, 3), False)):
        made = table.Table("t", pd.DataFrame([table.estimate_columns("epochs", estimate)]), columns)
        assert ("the same value" in made.markdown(), "the same value" in made.latex()) == (told, told)


def test_numbers_below_zero_have_a_minus_sign_but_for_the_csv():
    made = table.plain_table("t", pd.DataFrame({"x": [-1.5], "y": [7.6e-06]}))
    assert made.cells == [["−1.5", "7.6e-06"]]
    assert made.csv() == "x,y\n-1.5,7.6e-06\n"
    assert "$-$1.5" in made.latex()


def test_a_missing_cell_is_a_dash():
    made = table.plain_table("t", pd.DataFrame({"x": [1.5, float("nan")], "y": ["a", None]}))
    assert made.cells == [["1.5", "a"], ["–", "–"]]
