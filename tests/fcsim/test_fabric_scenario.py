"""Scenario files: what is read, and the one line that tells file, line, value and fix of what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcsim.errors import InvalidScenario
from fcsim.fabric.plan import make_plan
from fcsim.fabric.scenario import BROCADE_CREDITS, FaultKind
from fcsim.fabric.scenario_file import TABLES, load_scenario, read_scenario
from fcsim.fabric.toml_document import parse_document
from fcsim.fabric.variation import changed, combinations, parse_variation

PAIR = """[fabric]
duration = "1ms"
[[switch]]
name = "s1"
[[switch]]
name = "s2"
[[host]]
name = "h1"
switch = "s1"
[[port]]
name = "h2"
switch = "s2"
[[isl]]
between = ["s1", "s2"]
distance = "10km"
[[flow]]
from = "h1"
to = "h2"
"""


def test_a_scenario_is_read_with_its_defaults() -> None:
    scenario = read_scenario(parse_document(PAIR))
    assert [host.name for host in scenario.hosts] == ["h1", "h2"]
    assert (scenario.hosts[0].tx_credit, scenario.hosts[0].speed.name) == (8, "16G")
    assert (scenario.isls[0].name, scenario.isls[0].credits, scenario.isls[0].distance_m) == (
        "s1-s2",
        (16,),
        10_000,
    )
    assert scenario.sample_ns == 5_000


def test_brocades_channels_and_several_senders_are_short_to_write() -> None:
    text = PAIR.replace('distance = "10km"', 'virtual_channels = "brocade"').replace(
        'from = "h1"\nto = "h2"', 'from = ["h1", "h2"]\npayload = [64, 2112]'
    )
    scenario = read_scenario(parse_document(text))
    assert scenario.isls[0].credits == BROCADE_CREDITS
    assert [(flow.source, flow.to) for flow in scenario.flows] == [("h1", None), ("h2", None)]
    assert (scenario.flows[0].low_bytes, scenario.flows[0].high_bytes) == (64, 2112)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('duration = "1ms"', "duration = 5", 2, 'text such as "10ms" is expected, not 5'),
        ('duration = "1ms"', 'duration = "1 hour"', 2, "1 hour"),
        ('duration = "1ms"', 'durations = "1ms"', 2, "did you mean duration?"),
        ('switch = "s1"', 'switch = "s3"', 9, "there is no switch 's3'; there are s1, s2"),
        ('name = "h2"', 'name = "h1"', 11, "there is a 'h1' already"),
        (
            'switch = "s2"',
            'switch = "s2"\nspeed = "9G"',
            13,
            "'9G' is not a Fibre Channel speed; there are 1G",
        ),
        ('switch = "s2"', 'switch = "s2"\nbb_credit = 0', 13, "from 1 to 65535 is expected, not 0"),
        ('"s1", "s2"]', '"s1"]', 14, "two different switches"),
        ('distance = "10km"', 'distance = "10 miles"', 15, "miles"),
        ('distance = "10km"', "virtual_channels = [4, 4]\nbb_sc_n = 8", 16, "R_RDY mode"),
        ('distance = "10km"', "bb_credit = 4\nvirtual_channels = [4, 4]", 15, "leave one out"),
        ('to = "h2"', 'to = "h1"', 18, "sends to itself"),
        ('to = "h2"', 'to = "h2"\npayload = 2113', 19, "from 0 to 2112 is expected, not 2113"),
        ('to = "h2"', 'to = "any"\nhot = "h2"', 16, "hot and hot_share go together"),
        ('to = "h2"', 'to = "h2"\n[[fault]]\nkind = "lose-frame"\nlink = "s1-s2"', 20, "lose-frames"),
        ('to = "h2"', 'to = "h2"\n[[fault]]\nkind = "lose-frames"\nlink = "s1-s2"\ncount = 3', 22, "port = "),
        (
            'to = "h2"',
            'to = "h2"\n[[fault]]\nkind = "link-bounce"\nlink = "s1-s2"',
            19,
            "when is the link up again",
        ),
    ],
)
def test_a_mistake_is_told_with_file_line_value_and_fix(old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(InvalidScenario) as raised:
        read_scenario(parse_document(PAIR.replace(old, new), "x.toml"))
    text = str(raised.value)
    assert text.startswith(f"x.toml:{line}: "), text
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[[isl]]", "[[isle]]", "there is no table 'isle'"),
        (
            '[[isl]]\nbetween = ["s1", "s2"]\ndistance = "10km"\n',
            "",
            "there is no way from h1 to h2; add an [[isl]]",
        ),
        ('name = "s2"', 'name = "s2"\nbuffers = 10', "its ports grant 24 credits and it has 10 buffers"),
        ('distance = "10km"', 'speed = "64G"\ncount = 2\ntrunk = true', "no exact rate"),
        (
            'to = "h2"',
            'to = "h2"\n[[fault]]\nkind = "lose-frames"\nlink = "s9"\nprobability = 0.1',
            "no link or port 's9'",
        ),
        (
            'distance = "10km"',
            'virtual_channels = "brocade"\n[[flow]]\nfrom = "h1"\nto = "h2"\nvirtual_channel = 1',
            "virtual channel 1 has no credits",
        ),
        ('duration = "1ms"', "duration = ", "is not TOML"),
        ('duration = "1ms"', '"\\n" = 1', r"fabric: '\n': there is no such setting"),
        ('duration = "1ms"', '"" = 1', "fabric: '': there is no such setting"),
        ('duration = "1ms"', f'"{"x" * 5000}" = 1', "xxxx: there is no such setting"),
    ],
)
def test_what_makes_no_fabric_is_refused_in_one_line(old: str, new: str, words: str) -> None:
    with pytest.raises(InvalidScenario) as raised:
        make_plan(read_scenario(parse_document(PAIR.replace(old, new), "x.toml")))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_hosts_without_a_switch_name_each_other() -> None:
    text = (
        '[[host]]\nname = "a"\npeer = "b"\n[[host]]\nname = "b"\npeer = "a"\n[[flow]]\nfrom = "a"\nto = "b"\n'
    )
    plan = make_plan(read_scenario(parse_document(text)))
    assert [(p.name, p.type_) for p in plan.ports] == [("a", "N"), ("b", "N")]
    with pytest.raises(InvalidScenario, match="not the other end"):
        read_scenario(parse_document(text.replace('peer = "a"', 'peer = "b"')))


def test_traffic_takes_the_shortest_paths_and_all_equal_ones() -> None:
    triangle = PAIR.replace(
        'distance = "10km"',
        'speed = "8G"\ncount = 3\n[[switch]]\nname = "s3"\n[[isl]]\nbetween = ["s1", "s3"]\nspeed = "32G"\n'
        '[[isl]]\nbetween = ["s3", "s2"]\nspeed = "32G"',
    )
    plan = make_plan(read_scenario(parse_document(triangle)))
    # 32G twice costs 31 + 31, 8G once 125.
    assert [plan.directions[n].link for n in plan.routes[0, 1]] == ["s1-s3"]
    plan = make_plan(read_scenario(parse_document(triangle.replace('"32G"', '"4G"'))))
    assert [plan.directions[n].link for n in plan.routes[0, 1]] == ["s1-s2", "s1-s2#2", "s1-s2#3"]


def test_a_sweep_reaches_one_table_or_all_of_a_kind() -> None:
    document = parse_document(PAIR)
    every = read_scenario(changed(document, "port.bb_credit", 3))
    assert [host.tx_credit for host in every.hosts] == [3, 3]
    one = read_scenario(changed(document, "host.h1.bb_credit", 3))
    assert [host.tx_credit for host in one.hosts] == [3, 8]
    assert read_scenario(changed(document, "distance", "1km")).isls[0].distance_m == 1000
    with pytest.raises(InvalidScenario, match="no such table or key"):
        changed(document, "host.h9.bb_credit", 3)
    runs = combinations([parse_variation("isl.bb_credit=4,8"), parse_variation("distance=1km,2km")])
    assert runs[1] == {"isl.bb_credit": 4, "distance": "2km"}
    assert len(runs) == 4


def test_every_fault_of_the_schema_is_one_of_the_documented(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(
        PAIR
        + "".join(
            f'[[fault]]\nkind = "{kind}"\nport = "h1"\nprobability = 0.1\nfrom = "{n}us"\nuntil = "{n + 1}us"\n'
            for n, kind in enumerate(("lose-frames", "corrupt-frames", "lose-r-rdys"))
        )
        + '[[fault]]\nkind = "slow-receiver"\nport = "h2"\nservice_time = "5us"\n'
        + '[[fault]]\nkind = "link-bounce"\nlink = "s1-s2"\nuntil = "5us"\n'
    )
    assert {fault.kind for fault in load_scenario(file).faults} == set(FaultKind)


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1ms", "h1", "s1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
# fmt: off
_KEYS = (
    "name", "seed", "duration", "sample", "link_reset_after", "domain", "latency", "hold_time", "buffers",
    "switch", "peer", "speed", "distance", "bb_credit", "tx_bb_credit", "rx_bb_credit", "service_time",
    "drain_rate", "bb_sc_n", "between", "virtual_channels", "count", "trunk", "from", "to", "hot",
    "hot_share", "payload", "rate", "start", "frames", "virtual_channel", "kind", "port", "link", "until",
    "probability",
)
# fmt: on


@given(st.sampled_from(TABLES), st.sampled_from(_KEYS), _ANYTHING, st.booleans())
def test_whatever_stands_in_a_file_gets_a_plan_or_one_line(
    table: str, key: str, value: object, whole: bool
) -> None:
    document = parse_document(
        PAIR + '[[fault]]\nkind = "slow-receiver"\nport = "h2"\nservice_time = "5us"\n', "x.toml"
    )
    values = {
        name: ([dict(e) for e in v] if isinstance(v, list) else dict(v))
        for name, v in document.values.items()
    }
    if whole:
        values[table] = value  # type: ignore[assignment]
    else:
        entry = values.get(table)
        (entry[0] if isinstance(entry, list) else entry or {})[key] = value
    try:
        make_plan(read_scenario(replace(document, values=values)))
    except InvalidScenario as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
