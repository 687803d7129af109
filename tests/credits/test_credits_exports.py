"""The public names of the package, pinned."""

from __future__ import annotations

import credits


def test_the_public_names_are_these() -> None:
    assert set(credits.__all__) >= {
        "Allocation",
        "Code",
        "CreditError",
        "DurablePool",
        "Holder",
        "InvalidRequest",
        "Pool",
        "PoolConfig",
        "Refused",
        "Shortage",
        "StoreError",
        "Target",
        "TargetKind",
        "UnitKind",
        "application",
        "connection",
        "port_pair",
        "port_pair_number",
        "volume_group_pair",
        "volume_pair",
    }
    assert all(hasattr(credits, name) for name in credits.__all__)


def test_errors_have_two_levels() -> None:
    for error in (credits.InvalidRequest, credits.Refused, credits.StoreError):
        assert error.__bases__ == (credits.CreditError,)
    assert not issubclass(credits.LawBroken, credits.CreditError)
