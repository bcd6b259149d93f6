from __future__ import annotations

import pytest

from analysis import words
from analysis.stats import Estimate


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 epochs"), (1, "1 epoch"), ("1", "1 epoch"), (1563, "1,563 epochs"), ("20, 100", "20, 100 epochs")],
)
def test_a_count_has_its_noun_in_the_right_number(number, text):
    assert words.counted(number, "epoch") == text


def test_a_number_is_said_of_all_where_all_values_are_the_same():
    assert words.number(Estimate(82, 82, 82, 3)) == "82 (all\N{NO-BREAK SPACE}3)"
    assert words.number(Estimate(82.5, 81.5, 83.5, 2)).startswith("82.5 (81.5 to 83.5, n")


def test_numbers_below_zero_have_a_minus_sign():
    assert words.loss(Estimate(-0.387, -0.402, 0.371, 3)).startswith("−0.387 (−0.402 to 0.371, n")


def test_a_noun_can_have_a_plural_of_its_own():
    assert [words.counted(n, "box", "boxes") for n in (1, 2)] == ["1 box", "2 boxes"]


def test_numbers_of_epochs_are_named():
    assert words.numbered("epoch", [82]) == "epoch 82"
    assert words.numbered("epoch", [42, 62, 83]) == "epochs 42, 62 and 83"
