"""The exact binomial test: figures that other programs give, its bounds, and how many flows tell shares apart."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.binomial import enough, fewest, p_value, plausible, probabilities, tells_apart

SHARES = st.floats(0, 1)
FLOWS = st.integers(1, 200)


@pytest.mark.parametrize(
    ("count", "flows", "share", "expected"),
    [
        (682, 925, 0.75, 0.3825),  # R's own example of binom.test: Mendel's peas
        (3, 15, 0.1, 0.1841),  # scipy.stats.binomtest(3, 15, 0.1): both tails, the lower one is empty
        (5, 10, 0.5, 1.0),
        (0, 10, 0.5, 2 / 1024),
    ],
)
def test_p_values_are_those_of_other_programs(count: int, flows: int, share: float, expected: float) -> None:
    """A count's p-value is the sum of all probabilities that are no greater than its own, as R sums them."""
    assert p_value(count, flows, share) == pytest.approx(expected, abs=5e-4)


@settings(max_examples=50, deadline=None)
@given(FLOWS, SHARES)
def test_probabilities_are_the_binomial_ones(flows: int, share: float) -> None:
    """They sum to 1, and each is C(n, k) p^k (1 - p)^(n - k)."""
    every = probabilities(flows, share)
    assert sum(every) == pytest.approx(1)
    count = flows // 2
    exact = comb(flows, count) * share**count * (1 - share) ** (flows - count)
    assert every[count] == pytest.approx(exact, rel=1e-9, abs=1e-200)


@settings(max_examples=50, deadline=None)
@given(FLOWS, SHARES, st.sampled_from((0.9, 0.99, 0.999)))
def test_a_plausible_count_is_one_that_the_test_does_not_reject(
    flows: int, share: float, confidence: float
) -> None:
    """The range holds the counts with a p-value of at least 1 - confidence, and is one piece."""
    held = plausible(flows, share, confidence)
    wanted = [count for count in range(flows + 1) if p_value(count, flows, share) >= 1 - confidence - 1e-12]
    assert set(wanted) >= set(held)
    assert len(set(wanted) - set(held)) <= 2  # probabilities that are equal but for rounding


@settings(max_examples=50, deadline=None)
@given(FLOWS, SHARES, st.sampled_from((0.9, 0.99, 0.999)))
def test_chance_is_blamed_as_seldom_as_stated(flows: int, share: float, confidence: float) -> None:
    """Counts outside the range come by chance in less than 1 - confidence of all runs."""
    held = plausible(flows, share, confidence)
    outside = sum(one for count, one in enumerate(probabilities(flows, share)) if count not in held)
    assert outside < 1 - confidence + 1e-12


def test_ten_requests_tell_little() -> None:
    """Of 10 flows at 80 %, anything from 4 to 10 is plausible: eight of ten proves nothing."""
    assert plausible(10, 0.8, 0.999) == range(4, 11)
    assert not enough(10, (0.8, 0.2), 0.999)


@pytest.mark.parametrize(
    ("shares", "flows"), [((0.8, 0.2), 98), ((0.0, 1.0), 10), ((0.5, 0.5), 152), ((0.25, 0.25, 0.5), 358)]
)
def test_the_fewest_flows_that_are_enough(shares: tuple[float, ...], flows: int) -> None:
    """So many flows tell the shares from even ones (or, about even, from halved ones), and one fewer does not."""
    assert fewest(shares, 0.999) == flows
    assert enough(flows, shares, 0.999)
    assert not enough(flows - 1, shares, 0.999)


def test_an_arm_that_must_get_nothing_tolerates_nothing() -> None:
    """At a share of 0 one flow is too many, at a share of 1 one elsewhere."""
    assert plausible(50, 0.0, 0.999) == range(1)
    assert plausible(50, 1.0, 0.999) == range(50, 51)


def test_equal_shares_are_never_told_apart() -> None:
    """No number of flows tells a share from itself."""
    assert not tells_apart(500, 0.8, 0.8, 0.999)
