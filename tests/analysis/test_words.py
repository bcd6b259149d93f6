from __future__ import annotations

import pytest

from analysis import words


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 epochs"), (1, "1 epoch"), ("1", "1 epoch"), (1563, "1,563 epochs"), ("20, 100", "20, 100 epochs")],
)
def test_a_count_has_its_noun_in_the_right_number(number, text):
    assert words.counted(number, "epoch") == text


def test_a_noun_can_have_a_plural_of_its_own():
    assert [words.counted(n, "box", "boxes") for n in (1, 2)] == ["1 box", "2 boxes"]


def test_numbers_of_epochs_are_named():
    assert words.numbered("epoch", [82]) == "epoch 82"
    assert words.numbered("epoch", [42, 62, 83]) == "epochs 42, 62 and 83"
