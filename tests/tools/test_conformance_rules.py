"""Rules and clauses are read from the tests' own words, and from nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.conformance import main
from tools.conformance_rules import (
    MARKER,
    RuleTest,
    UnknownRule,
    conformance_page,
    rule_tests,
    rules,
    without_test,
)
from tools.unh_lists import LISTS

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


RULE_FILE = '''"""Rules."""


def test_a_burst() -> None:
    """Data beyond the burst
    end the command.

    UNH-IOL FFP 7.1, 7.2
    UNH-IOL MC some-word
    RFC 7143 11.7.7, Appendix C
    """


async def test_in_a_loop() -> None:
    """A coroutine counts as well.

    UNH-IOL ER 1.1
    RFC 7143 7.2.1
    """


def test_that_names_no_rule() -> None:
    """Something else (section 6.2)."""
'''


def test_a_rule_test_says_what_is_demanded_and_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "test_it.py").write_text(RULE_FILE)
    assert rule_tests(tmp_path) == [
        RuleTest(
            "rules/test_it.py",
            "test_a_burst",
            "Data beyond the burst end the command.",
            (("FFP", "7.1"), ("FFP", "7.2"), ("MC", "some-word")),
            ("11.7.7", "Appendix C"),
        ),
        RuleTest(
            "rules/test_it.py", "test_in_a_loop", "A coroutine counts as well.", (("ER", "1.1"),), ("7.2.1",)
        ),
    ]
    assert list(rules(tmp_path)) == ["6.2", "7.2.1", "11.7.7", "Appendix C"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("UNH-IOL FFP 99.1\n    RFC 7143 7", "FFP 99.1"),
        ("UNH-IOL FFP a-word\n    RFC 7143 7", "FFP a-word"),
        ("UNH-IOL XYZ 1.1\n    RFC 7143 7", "XYZ 1.1"),
        ("UNH-IOL FFP 7.1", "no clause"),
    ],
)
def test_a_rule_that_there_is_not_is_an_error(tmp_path: Path, line: str, complaint: str) -> None:
    text = f'def test_x() -> None:\n    """Something.\n\n    {line}\n    """\n'
    (tmp_path / "test_it.py").write_text(text)
    with pytest.raises(UnknownRule, match=complaint):
        rule_tests(tmp_path)


def test_every_number_of_every_list_has_a_test_or_a_reason() -> None:
    assert without_test(rule_tests()) == []
    assert len(next(entry for entry in LISTS if entry.label == "FFP").numbers) == 82


def test_a_number_without_test_and_one_with_both_are_noticed() -> None:
    tests = [test for test in rule_tests() if ("FFP", "4.1") not in test.rules]
    both = RuleTest("x.py", "test_x", "", (("CHAP-I", "3.6.1"),), ("7",))
    assert without_test([*tests, both]) == ["FFP 4.1", "CHAP-I 3.6.1"]


def test_the_page_names_every_number_and_keeps_what_is_written_by_hand() -> None:
    by_hand, _, generated = conformance_page().partition(MARKER)
    assert "## libiscsi's suite" in by_hand
    for entry in LISTS:
        _, _, section = generated.partition(f"### {entry.title} ({entry.label})\n")
        lines = section.partition("\n## ")[0].partition("\n### ")[0].splitlines()
        listed = {line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")}
        assert set(entry.numbers) <= listed
        for number, reason in entry.not_applicable.items():
            assert any(line.startswith(f"| {number} |") and reason in line for line in lines)


def test_a_target_without_an_address_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "tgtd"])
    assert ended.value.code == 2
    assert "NAME=iscsi://" in capsys.readouterr().err
