"""Rules as tables: what is read back is what was written, and what is wrong is said in one line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.faults import (
    Delay,
    Drop,
    Exponential,
    FaultError,
    Fixed,
    Normal,
    Rule,
    RuleSet,
    Samples,
    Scope,
    Trigger,
    Uniform,
    UnknownRule,
    load_rules,
    parse_cdb,
    rule_from_table,
    rule_to_table,
)
from iscsi_target.faults.distributions import MAX_DELAY_NS, parse_distribution
from iscsi_target.faults.matching import Direction, commands_named
from iscsi_target.faults.tables import ACTION_NAMES

MS = 1_000_000

EXAMPLES = r"""
[[rule]]
action = "drop"
direction = "to-initiator"
opcode = ["r2t", "data-in"]
nth = 3
[[rule]]
action = "duplicate"
copies = 2
lun = [0, 3]
[[rule]]
action = "delay"
delay = {normal = ["20ms", "3ms"]}
overtake = true
per = "task"
[[rule]]
action = "reorder"
behind = 4
within = "250ms"
[[rule]]
action = "truncate"
keep_bytes = 100
adjust = false
[[rule]]
action = "corrupt"
part = "header-digest"
bits = [0, 31]
[[rule]]
action = "renumber"
field = "stat_sn"
add = -1
[[rule]]
action = "window"
commands = 4
[[rule]]
action = "redirect"
address = "10.0.0.1:3260,1"
permanent = true
initiator = "iqn.*:host?"
[[rule]]
action = "close"
how = "half-close"
pass_first = true
[[rule]]
action = "reject"
reason = "command-not-supported"
[[rule]]
action = "async"
event = "scsi-event"
asc = 0x2A
ascq = 9
[[rule]]
action = "busy"
command = "read"
every = 10
skip = 5
[[rule]]
action = "queue-full"
probability = 0.25
count = 7
[[rule]]
action = "status"
status = "task-aborted"
execute = true
[[rule]]
action = "sense"
sense_key = "hardware-error"
asc = 0x44
cdb = "2? ?? 00"
enabled = false
[[rule]]
action = "medium-error"
lba = 100
blocks = 8
until_rewritten = true
[[rule]]
action = "latency"
delay = {samples = ["1ms", "2500us", "7ns"]}
session = 3
cid = 1
task_tag = 77
[[rule]]
action = "rate"
bytes_per_s = "10MiB"
iops = 12.5
target = "iqn.2003-10.example:*"
"""


def rules(tmp_path: Path, text: str) -> tuple[Rule, ...]:
    path = tmp_path / "faults.toml"
    path.write_text(text)
    return load_rules(path).rules


def test_every_action_is_read_and_written_back_the_same(tmp_path: Path) -> None:
    read = rules(tmp_path, EXAMPLES)
    assert {rule_to_table(rule)["action"] for rule in read} == set(ACTION_NAMES)
    for rule in read:
        table = rule_to_table(rule)
        assert rule_from_table(json.loads(json.dumps(table))) == rule
    tables = tomllib.loads(EXAMPLES)["rule"]
    for table, rule in zip(tables, read, strict=True):
        written = rule_to_table(rule)
        assert set(written) - {"name"} == set(table)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[[rule]]\naction = 'drop'\nopcod = 'r2t'",
            "rule 1 'rule-1': 'opcod' is no key of a rule with action 'drop'",
        ),
        ("[[rule]]\nname = 'x'\naction = 'explode'", "rule 1 'x': action: there is no 'explode'"),
        ("[[rule]]\nname = 'x'", "rule 1 'x': a rule has a action"),
        ("[[rule]]\naction = 'drop'\nopcode = 'r3t'", "opcode: there is no PDU 'r3t'"),
        ("[[rule]]\naction = 'drop'\nnth = 0", "nth is at least 1"),
        ("[[rule]]\naction = 'drop'\nnth = true", "nth: a whole number is expected, not True"),
        ("[[rule]]\naction = 'drop'\nprobability = 1.5", "probability is 0 to 1"),
        ("[[rule]]\naction = 'drop'\ncommand = 'fly'", "command: there is no command 'fly'"),
        ("[[rule]]\naction = 'drop'\ncdb = '2'", "cdb: a CDB is whole bytes"),
        ("[[rule]]\naction = 'delay'", "action 'delay' needs delay"),
        ("[[rule]]\naction = 'delay'\ndelay = 20", "delay: a time is a number with ns, us, ms, s or min"),
        ("[[rule]]\naction = 'delay'\ndelay = {normal = ['1ms']}", 'delay: a time is "20ms"'),
        ("[[rule]]\naction = 'delay'\ndelay = {uniform = ['2ms', '1ms']}", "lower end first"),
        ("[[rule]]\naction = 'renumber'\nfield = 'statsn'\nadd = 1", "field: no PDU has the number 'statsn'"),
        ("[[rule]]\naction = 'renumber'\nfield = 'stat_sn'", "exactly one of add"),
        ("[[rule]]\naction = 'sense'\nasc = 1", "action 'sense' needs sense_key"),
        ("[[rule]]\naction = 'status'\nstatus = 'check-condition'", "use sense"),
        ("[[rule]]\naction = 'medium-error'\nlba = -1", "lba is 0 to 2**64 - 1"),
        (
            "[[rule]]\naction = 'close'\nhow = 'gently'",
            "how: a connection ends by close, half-close or reset",
        ),
        (
            "[[rule]]\naction = 'drop'\ndirection = 'up'",
            "direction: there is no 'up'; there are to-target, to-initiator",
        ),
        (
            "[[rule]]\nname = 'a'\naction = 'drop'\n[[rule]]\nname = 'a'\naction = 'drop'",
            "rule 2 'a': the name is taken",
        ),
        ("[rule]\naction = 'drop'", "rules are tables: [[rule]]"),
        ("[[rule]]\naction = 'busy'\nopcode = 'data-in'", "no other opcode than scsi-command can be meant"),
        ("[[rule]]\naction = 'busy'\ndirection = 'to-initiator'", "its direction is to-target"),
        ("[[rule]]\naction = 'reject'\ndirection = 'to-initiator'", "its direction is to-target"),
        ("[[rule]]\naction = 'window'\ndirection = 'to-target'", "its direction is to-initiator"),
        (
            "[[rule]]\naction = 'redirect'\naddress = 'a:1'\nopcode = 'nop-out'",
            "no other opcode than login-request can be meant",
        ),
        ("seed = 'x'", "seed: a whole number is expected"),
        ("rules = 1", "'rules' is no key of a rules file"),
        ("= 3", "is not TOML"),
    ],
)
def test_what_is_wrong_names_the_file_the_rule_and_the_key_in_one_line(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(FaultError) as wrong:
        rules(tmp_path, text)
    told = str(wrong.value)
    assert says in told
    assert "faults.toml" in told
    assert "\n" not in told


def test_a_file_that_is_missing_or_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match=r"cannot read .*nothing\.toml: no such file"):
        load_rules(tmp_path / "nothing.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(FaultError, match="longer than 1048576 bytes"):
        load_rules(tmp_path / "long.toml")


def test_the_seed_of_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text("seed = 42\n")
    assert load_rules(path).seed == 42


@pytest.mark.parametrize(
    ("name", "opcodes"),
    [
        ("READ (10)", {0x28}),
        ("read-10", {0x28}),
        ("read", {0x08, 0x28, 0xA8, 0x88}),
        ("write", {0x0A, 0x2A, 0xAA, 0x8A}),
        ("Test Unit Ready", {0x00}),
        ("persistent reserve out", {0x5F}),
        ("read capacity (16)", {0x9E}),
    ],
)
def test_a_command_is_named_as_in_the_standards_or_by_its_family(name: str, opcodes: set[int]) -> None:
    assert {opcode for opcode, _ in commands_named(name)} == opcodes


def test_a_service_action_tells_two_commands_of_one_opcode_apart() -> None:
    assert commands_named("read capacity (16)") == ((0x9E, 0x10),)
    assert commands_named("get lba status") == ((0x9E, 0x12),)


@given(st.binary(min_size=1, max_size=16), st.data())
def test_a_pattern_matches_what_has_its_fixed_digits(cdb: bytes, data: st.DataObject) -> None:
    digits = "".join(data.draw(st.sampled_from((digit, "?"))) for digit in cdb.hex())
    pattern = parse_cdb(digits)
    assert pattern.matches(cdb + bytes(3))
    assert not pattern.matches(cdb[:-1])
    for at, digit in enumerate(digits):
        other = bytearray(cdb)
        other[at // 2] ^= 0x10 if at % 2 == 0 else 0x01
        assert pattern.matches(bytes(other)) is (digit == "?")


@given(
    st.one_of(
        st.integers(0, MAX_DELAY_NS).map(Fixed),
        st.tuples(st.integers(0, MS), st.integers(MS, 9 * MS)).map(lambda pair: Uniform(*pair)),
        st.tuples(st.integers(0, 9 * MS), st.integers(0, 9 * MS)).map(lambda pair: Normal(*pair)),
        st.integers(1, 9 * MS).map(Exponential),
        st.lists(st.integers(0, 9 * MS), min_size=1, max_size=5).map(lambda list_: Samples(tuple(list_))),
    ),
    st.integers(),
)
def test_times_are_drawn_within_bounds_and_again_from_the_same_seed(distribution, seed: int) -> None:
    rule = Rule(name="d", action=Delay(distribution))
    assert rule_from_table(rule_to_table(rule)) == rule
    drawn = [distribution.draw_ns(random) for random in (Random(seed),) for _ in range(20)]
    random = Random(seed)
    assert [distribution.draw_ns(random) for _ in range(20)] == drawn
    assert all(0 <= value <= MAX_DELAY_NS for value in drawn)
    if isinstance(distribution, Uniform):
        assert all(distribution.low_ns <= value <= distribution.high_ns for value in drawn)
    if isinstance(distribution, Samples):
        assert set(drawn) <= set(distribution.values_ns)


def test_a_plain_zero_is_a_time() -> None:
    assert parse_distribution(0) == Fixed(0)


class Seen:
    """A PDU as rules see it."""

    direction = Direction.TO_TARGET
    opcode = 0
    lun: int | None = 0
    cdb = b""
    initiator_task_tag = 1
    initiator_name = "iqn.2026-11.example:i"
    target_name = "iqn.2026-11.example:t"
    tsih = 1
    cid = 0
    connection = 1

    def __init__(self, **fields: object) -> None:
        for name, value in fields.items():
            setattr(self, name, value)


def fired(trigger: Trigger, subjects: list[Seen], seed: int = 0) -> list[int]:
    """Which of the subjects (from 1) a rule fires on."""
    active = RuleSet([Rule(name="r", action=Drop(), trigger=trigger)], seed=seed)
    return [
        number
        for number, subject in enumerate(subjects, 1)
        if active.firing(active.on_pdus, subject, lambda _active, _subject: True)
    ]


@pytest.mark.parametrize(
    ("trigger", "numbers"),
    [
        (Trigger(), list(range(1, 13))),
        (Trigger(nth=4), [4]),
        (Trigger(every=5), [5, 10]),
        (Trigger(skip=9), [10, 11, 12]),
        (Trigger(count=2), [1, 2]),
        (Trigger(every=2, skip=3, count=3), [4, 6, 8]),
        (Trigger(probability=0), []),
    ],
)
def test_a_trigger_counts_from_one(trigger: Trigger, numbers: list[int]) -> None:
    assert fired(trigger, [Seen() for _ in range(12)]) == numbers


@pytest.mark.parametrize(
    ("per", "field"),
    [
        (Scope.LUN, "lun"),
        (Scope.CONNECTION, "connection"),
        (Scope.SESSION, "tsih"),
        (Scope.TASK, "initiator_task_tag"),
    ],
)
def test_a_trigger_may_count_in_each_scope_on_its_own(per: Scope, field: str) -> None:
    subjects = [Seen(**{field: value}) for value in (1, 1, 2, 3, 2, 1)]
    assert fired(Trigger(nth=2, per=per), subjects) == [2, 5]


@given(st.integers(), st.floats(0.05, 0.95))
def test_chance_replays_and_is_independent_of_other_rules(seed: int, probability: float) -> None:
    trigger = Trigger(probability=probability)
    subjects = [Seen() for _ in range(60)]
    alone = fired(trigger, subjects, seed)
    both = RuleSet(
        [
            Rule(name="other", action=Drop(), trigger=Trigger(probability=0.5)),
            Rule(name="r", action=Drop(), trigger=trigger),
        ],
        seed=seed,
    )
    beside = [
        number
        for number, subject in enumerate(subjects, 1)
        if any(
            active.rule.name == "r"
            for active, _ in both.firing(both.on_pdus, subject, lambda _active, _subject: True)
        )
    ]
    assert beside == alone


def test_a_set_is_changed_as_a_whole_or_not_at_all() -> None:
    made = RuleSet([Rule(name="a", action=Drop())])
    heard = []
    made.changed = lambda: heard.append(len(made))
    with pytest.raises(FaultError, match="there is a rule 'a' already"):
        made.add_all([Rule(name="b", action=Drop()), Rule(name="a", action=Drop())])
    assert [rule.name for rule in made] == ["a"]
    made.add_table({"name": "a", "action": "drop", "nth": 2}, replace_rule=True)
    assert [rule.trigger.nth for rule in made] == [2]
    made.enable("a", False)
    assert made.on_pdus == ()
    made.enable("a")
    assert len(made.on_pdus) == 1
    with pytest.raises(UnknownRule, match="there is no rule 'z'; there are: a"):
        made.remove("z")
    assert made.clear() == 1
    assert heard == [1, 1, 1, 0]


def test_there_are_at_most_a_thousand_rules() -> None:
    with pytest.raises(FaultError, match="at most 1000 rules"):
        RuleSet([Rule(name=f"r{number}", action=Drop()) for number in range(1001)])


def test_a_rule_added_without_a_name_gets_one_and_can_be_removed() -> None:
    made = RuleSet()
    first, second = made.add(Drop(), opcode="r2t"), made.add(Drop())
    assert (first.name, second.name) == ("drop-1", "drop-2")
    first.remove()
    first.remove()
    assert [rule.name for rule in made] == ["drop-2"]
    assert first.fired == 0
    with pytest.raises(FaultError, match="'opcod' is no key"):
        made.add(Drop(), opcod="r2t")


def test_the_page_on_faults_names_every_action_and_key() -> None:
    from iscsi_target.faults import tables

    page = (Path(__file__).resolve().parents[3] / "docs" / "faults.md").read_text()
    for action, (_, keys, _) in tables._ACTIONS.items():
        (row,) = (
            line
            for line in page.splitlines()
            if line.startswith("| ") and f"`{action}`" in line.split("|")[1]
        )
        assert all(f"`{key}`" in row for key in keys), row
    for key in (*tables._MATCH, *tables._TRIGGER):
        assert f"`{key}" in page
    example = page.partition("```toml\n")[2].partition("```")[0]
    assert [rule["name"] for rule in tomllib.loads(example)["rule"]] == ["third-r2t-is-lost"]
    assert tables.rules_from_document(tomllib.loads(example), where="page").seed == 42
