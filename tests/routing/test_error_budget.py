from __future__ import annotations

import pytest

from tiercel.errors import ConfigurationError, DataError
from tiercel.routing.error_budget import ErrorBudget


def test_all_epochs_there_can_be_spend_no_more_than_the_whole() -> None:
    budget = ErrorBudget(total=0.05)
    for epoch in range(1, 200):
        own = budget.allotment(epoch)
        budget = budget.spend(epoch, certificate=own.certificate, broken=own.broken, within=own.within)
    assert sum(s.delta for s in budget.spends) == pytest.approx(0.05 * (1 - 1 / 200))
    assert 0 < budget.left == pytest.approx(0.05 / 200)


def test_the_first_epoch_spends_half_on_its_online_claims() -> None:
    own = ErrorBudget(total=0.08).allotment(1)
    assert (own.certificate, own.broken, own.within) == (0.0, 0.02, 0.02)
    later = ErrorBudget(total=0.12).allotment(2)
    assert (later.certificate, later.broken, later.within) == pytest.approx((0.01, 0.005, 0.005))


def test_what_is_spent_less_is_left() -> None:
    budget = ErrorBudget(total=0.05).spend(1, certificate=0.0, broken=0.01, within=0.0)
    assert budget.left == pytest.approx(0.04)
    assert [(s.epoch, s.purpose, s.delta) for s in budget.spends] == [(1, "broken", 0.01)]


def test_an_epoch_that_wants_too_much_is_told_what_to_do() -> None:
    budget = ErrorBudget(total=0.05).spend(1, certificate=0.0, broken=0.0125, within=0.0125)
    with pytest.raises(DataError, match=r"issue its certificate with --confidence 0\.995833"):
        budget.spend(2, certificate=0.05, broken=0.0, within=0.0)
    with pytest.raises(DataError, match="lower its level"):
        budget.spend(2, certificate=0.0, broken=0.01, within=0.0)
    with pytest.raises(DataError, match="lower its level"):
        budget.spend(2, certificate=0.0, broken=-0.001, within=0.0)
    with pytest.raises(DataError, match="begun already"):
        budget.spend(1, certificate=0.0, broken=0.0, within=0.0)
    with pytest.raises(DataError, match="the first is 1"):
        budget.allotment(0)


@pytest.mark.parametrize("total", [0.0, 1.0, -0.1, float("nan")])
def test_a_budget_out_of_range_is_refused(total: float) -> None:
    with pytest.raises(ConfigurationError, match=r"give a chance such as 0\.05"):
        ErrorBudget(total=total)
