"""How far a count of flows may be from its share by chance: the exact two-sided binomial test.

The probability of k of n flows is C(n, k) p^k (1 - p)^(n - k). A count's p-value is the sum of the probabilities of
all counts that are no more probable than it; the test and this choice of the two sides are those of R's binom.test
(W. J. Conover, Practical Nonparametric Statistics, 1971, pages 97 to 104). Shares and confidences are 0 to 1.
"""

from __future__ import annotations

from functools import cache
from math import exp, lgamma, log

MOST_FLOWS = 100_000
"""Beyond this many flows nobody asks."""

_ALIKE = 1 + 1e-7
"""Probabilities that differ by less are equal but for rounding; R's binom.test has the same factor."""


@cache
def probabilities(flows: int, share: float) -> tuple[float, ...]:
    """Return the probability of each count from 0 to `flows`."""
    if share in (0.0, 1.0):
        return tuple(float(count == flows * share) for count in range(flows + 1))
    whole = lgamma(flows + 1)
    return tuple(
        exp(
            whole
            - lgamma(count + 1)
            - lgamma(flows - count + 1)
            + count * log(share)
            + (flows - count) * log(1 - share)
        )
        for count in range(flows + 1)
    )


def p_value(count: int, flows: int, share: float) -> float:
    """Return the probability of a count that is no more probable than this one."""
    every = probabilities(flows, share)
    return min(1.0, sum(one for one in every if one <= every[count] * _ALIKE))


@cache
def plausible(flows: int, share: float, confidence: float) -> range:
    """Return the counts that the test does not reject: their p-value is at least 1 - confidence."""
    every = probabilities(flows, share)
    order = sorted(range(flows + 1), key=every.__getitem__)
    total, kept = 0.0, len(order) - 1
    at = 0
    while at < len(order):  # equally probable counts go together
        alike = at
        while alike < len(order) and every[order[alike]] <= every[order[at]] * _ALIKE:
            total += every[order[alike]]
            alike += 1
        if total >= 1 - confidence:
            kept = at
            break
        at = alike
    held = order[kept:]
    return range(min(held), max(held) + 1)


def tells_apart(flows: int, share: float, other: float, confidence: float) -> bool:
    """Say whether the test of `share` would reject `other` with at least the same confidence."""
    every = probabilities(flows, other)
    passed = sum(every[count] for count in plausible(flows, share, confidence))
    return passed <= 1 - confidence


def enough(flows: int, shares: tuple[float, ...], confidence: float) -> bool:
    """Say whether so many flows tell these shares from even ones, or, where they are about even, from halved ones."""
    even = 1 / len(shares)
    if all(abs(share - even) < 0.1 for share in shares):
        return all(tells_apart(flows, share, share / 2, confidence) for share in shares)
    return any(tells_apart(flows, share, even, confidence) for share in shares)


def fewest(shares: tuple[float, ...], confidence: float) -> int | None:
    """Return a number of flows that is enough where one fewer is not; None where MOST_FLOWS are not enough."""
    high = 1
    while not enough(high, shares, confidence):
        high *= 2
        if high > MOST_FLOWS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle, shares, confidence) else (middle, high)
    return high
