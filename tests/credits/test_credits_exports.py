"""The public names of the package, pinned."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


def test_who_names_a_target_waits_for_no_database() -> None:
    code = (
        "import sys; from credits import Target; assert not {'sqlite3', 'credits.journal'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_name_that_is_none_is_said_as_python_says_it() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Bucket'"):
        credits.Bucket  # noqa: B018
    assert set(dir(credits)) == set(credits.__all__)
