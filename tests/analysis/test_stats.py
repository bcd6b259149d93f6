import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from analysis import stats

values = st.lists(st.floats(0.01, 100), min_size=2, max_size=20)


@given(values)
def test_the_mean_and_its_interval_are_students(x):
    estimate = stats.mean(x)
    if np.std(x) > 1e-6:
        low, high = scipy.stats.t.interval(0.95, len(x) - 1, np.mean(x), scipy.stats.sem(x))
        assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-6)
    assert estimate.value == pytest.approx(np.mean(x))
    assert estimate.n == len(x)


def test_one_value_has_no_interval():
    estimate = stats.mean([0.06])
    assert (estimate.value, estimate.n, estimate.has_interval) == (0.06, 1, False)


@pytest.mark.parametrize("x", [[82, 82, 82], [0.1, 0.1, 0.1]])
def test_values_that_are_all_the_same_have_no_interval(x):
    estimate = stats.mean(x)
    assert (estimate.value, estimate.n, estimate.has_interval, estimate.alike) == (x[0], 3, False, True)


def test_a_difference_of_values_that_are_all_the_same_has_no_interval():
    alike, differing = [0.3, 0.3, 0.3], [0.1, 0.2, 0.3]
    for compared in (stats.difference, stats.ratio):
        assert not compared(alike, [0.1, 0.1, 0.1]).has_interval
        assert compared(alike, differing).has_interval


def test_one_value_is_not_called_alike():
    assert not stats.mean([82]).alike


def test_no_values_have_no_mean():
    assert math.isnan(stats.mean([]).value)
    assert stats.mean([]).n == 0


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        stats.mean([0.1, math.nan])


@given(values, values)
def test_a_difference_agrees_with_welchs_test(a, b):
    if np.std(a) < 1e-3 or np.std(b) < 1e-3:
        return
    expected = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    estimate = stats.difference(a, b)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


@given(values, values)
def test_swapping_a_ratios_sides_inverts_it(a, b):
    forward, backward = stats.ratio(a, b), stats.ratio(b, a)
    assert forward.value * backward.value == pytest.approx(1)
    assert forward.low * backward.high == pytest.approx(1)
    assert forward.low <= forward.value <= forward.high


@given(values, st.floats(0.1, 10))
def test_a_paired_ratio_of_proportional_times_is_exact(b, factor):
    estimate = stats.ratio([factor * v for v in b], b, paired=True)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((factor, factor, factor))


def test_a_paired_ratio_needs_pairs():
    with pytest.raises(ValueError, match="got 2 and 3"):
        stats.ratio([1, 2], [1, 2, 3], paired=True)


def test_a_ratio_to_nothing_measured_is_not_known():
    assert stats.ratio([1.0, 2.0], []) == stats.NOTHING or math.isnan(stats.ratio([1.0, 2.0], []).value)


def test_a_ratio_of_values_that_are_not_positive_is_refused():
    with pytest.raises(ValueError, match="positive"):
        stats.ratio([1.0, 0.0], [1.0])


def test_the_target_is_reached_at_its_first_epoch_and_not_lost_again():
    crossing = stats.first_reached([1, 2, 3, 4], [0.2, 0.06, 0.07, 0.05], [10, 20, 30, 40], 0.06)
    assert crossing == stats.Crossing(2, 20.0, 4)


def test_the_order_of_rows_does_not_matter():
    crossing = stats.first_reached([4, 2, 1, 3], [0.05, 0.06, 0.2, 0.07], [40, 20, 10, 30], 0.06)
    assert crossing == stats.Crossing(2, 20.0, 4)


def test_accuracy_of_exactly_the_target_counts_in_float32():
    crossing = stats.first_reached([1], [float(np.float32(0.06))], [5], 1 - 0.94)
    assert crossing.epoch == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0, 1))
def test_nothing_before_the_crossing_is_at_the_target(errors, target):
    epochs = list(range(1, len(errors) + 1))
    crossing = stats.first_reached(epochs, errors, epochs, target)
    before = errors if crossing.epoch is None else errors[: crossing.epoch - 1]
    assert all(e > target for e in before)
    assert crossing.epochs == len(errors)


def test_trials_that_did_not_get_there_are_counted_and_not_averaged():
    crossings = [stats.Crossing(82, 600.0, 100), stats.Crossing(84, 620.0, 100), stats.Crossing(None, None, 100)]
    result = stats.to_target(crossings)
    assert (result.epoch.value, result.seconds.value) == (83, 610)
    assert (result.reached, result.n, result.epochs) == (2, 3, 100)


def test_an_interval_is_cut_to_what_can_be():
    assert stats.mean([0.0, 0.1, 0.9]).within(0.0, 1.0).low == 0
    assert stats.mean([0.0, 0.1, 0.9]).within(0.0, 0.95).high == 0.95
    assert not stats.mean([0.5]).within(0.0).has_interval
