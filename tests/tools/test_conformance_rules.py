"""The list of RFC 7143 clauses is read from the tests' own words, and from nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.conformance import main, rules

FILE = '''"""About something (RFC 7143 section 7)."""


def test_one() -> None:
    pass


# -- writes (sections 4.2.5.2 and 11.7; RFC 7144 section 5) ---


def test_two() -> None:
    pass


def test_three() -> None:
    """The residual count (section 11.4.5.2; RFC 1994 section 4.1)."""
'''


def test_a_test_belongs_to_its_docstring_else_its_heading_else_its_file(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FILE)
    (tmp_path / "test_other.py").write_text('"""SPC-4 section 7."""\n\n\ndef test_x() -> None:\n    pass\n')
    assert rules(tmp_path) == {
        "4.2.5.2": ["test_it::test_two"],
        "7": ["test_it::test_one"],
        "11.4.5.2": ["test_it::test_three"],
        "11.7": ["test_it::test_two"],
    }


def test_every_group_of_rules_has_tests() -> None:
    """Numbering, login, recovery, PDUs, CHAP, keys."""
    assert {clause.partition(".")[0] for clause in rules()} >= {"4", "6", "7", "11", "12", "13"}


def test_a_target_without_an_address_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "tgtd"])
    assert ended.value.code == 2
    assert "NAME=iscsi://" in capsys.readouterr().err
