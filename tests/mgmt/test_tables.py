"""The tables as people read them: the document's example rows, units, and rows that are not of our making."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.columns import address, delay, rate, size
from mgmt.layouts import LAYOUTS
from mgmt.tables import _aligned, _is_simple, draw

P1 = {"local_port": "211.19.1.20", "remote_port": "133.185.12.20"}
P2 = {"local_port": "211.19.3.85", "remote_port": "172.83.1.21"}


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_table_101_has_the_rows_of_figure_3a() -> None:
    rows = [
        {
            "target": {"kind": "port_pair", **P1},
            "buffer_address": 0x0FFFFFFF,
            "reserved_bytes": 2_100_000,
            "reserved_units": 1026,
            "in_use_units": 0,
            "state": "reserved",
        },
        {
            "target": {"kind": "port_pair", **P2},
            "buffer_address": 0xFF00CC,
            "reserved_bytes": 4_500_000,
            "reserved_units": 2198,
            "in_use_units": 1099,
            "state": "in_use",
        },
    ]
    assert lines(draw("reservations", rows)) == [
        "MASTER PORT  REMOTE PORT      ADDRESS  RESERVED  IN USE  STATE",
        "211.19.1.20  133.185.12.20  0xFFFFFFF  2.003MiB     0 %  reserved",
        "211.19.3.85  172.83.1.21     0xFF00CC  4.292MiB    50 %  in_use",
    ]


def test_copies_say_what_limits_their_connections_and_what_was_sent_again_where_it_is_known() -> None:
    row = {"copy_id": "c1", "pair": "a,b", "state": "copying", "progress": 0.5}
    links = [
        {"limited_by": word, "retransmitted_segments": count}
        for word, count in (("sndbuf-limited", 2), ("network-limited", 3), ("sndbuf-limited", 0), ("", None))
    ]
    wide = draw("copies", [row | {"links": links}], wide=True)
    assert "LIMITED BY" in wide and "network-limited, sndbuf-limited" in wide
    assert "SENT AGAIN" in wide and wide.splitlines()[-1].split()[-2] == "5"
    for unknown in (None, [], [{"limited_by": ""}], [5]):
        assert "LIMITED BY" not in draw("copies", [row | {"links": unknown}], wide=True)
    assert "LIMITED BY" not in draw("copies", [row | {"links": links}])


def test_table_108_has_the_rows_of_figure_3b() -> None:
    rows = [
        P1 | {"bandwidth_bps": 10_000_000, "rtt_ns": 2800, "sessions": 2, "connections_per_session": 3},
        P2 | {"bandwidth_bps": 45_000_000, "rtt_ns": 1200, "sessions": 1, "connections_per_session": 4},
    ]
    assert lines(draw("channels", [row | {"measured_at": None, "stale": False} for row in rows])) == [
        "MASTER PORT  REMOTE PORT    BANDWIDTH  DELAY  SESSIONS  CONNS  MEASURED",
        "211.19.1.20  133.185.12.20     10Mbit  2.8us         2      3  -",
        "211.19.3.85  172.83.1.21       45Mbit  1.2us         1      4  -",
    ]


def test_table_101_of_embodiments_3_and_4_has_their_columns() -> None:
    common = {"buffer_address": 0xFF00CC, "reserved_units": 10, "in_use_units": 0, "state": "reserved"}
    rows = [
        {"target": {"kind": "port_pair_number", **P1, "remote_port_number": 25}, "reserved_bytes": 20480}
        | common,
        {"target": {"kind": "connection", **P2, "buffer_id": 15000}, "reserved_bytes": 20480} | common,
    ]
    assert lines(draw("reservations", rows)) == [
        "MASTER PORT  REMOTE PORT    PORT     ID   ADDRESS  RESERVED  IN USE  STATE",
        "211.19.1.20  133.185.12.20    25      -  0xFF00CC     20KiB     0 %  reserved",
        "211.19.3.85  172.83.1.21       -  15000  0xFF00CC     20KiB     0 %  reserved",
    ]


def test_a_reservation_without_ports_shows_what_it_is_for() -> None:
    common = {"buffer_address": 0xFF00CC, "reserved_units": 10, "in_use_units": 0, "state": "reserved"}
    row = {"target": {"kind": "volume_pair", "name": "vol0,vol1"}, "reserved_bytes": 20480} | common
    assert lines(draw("reservations", [row])) == [
        "MASTER PORT  REMOTE PORT  NAME                    ADDRESS  RESERVED  IN USE  STATE",
        "-            -            volume pair vol0,vol1  0xFF00CC     20KiB     0 %  reserved",
    ]
    allocated = {"target": {"kind": "application", "name": "backup"}, "allocated_units": 7}
    assert "application backup" in draw("allocations", [allocated])


def test_table_109_has_the_columns_of_paragraph_26() -> None:
    row = {
        "array": "M",
        "target": {"kind": "port_pair", **P1},
        "buffer_address": 0x10000,
        "allocated_units": 7,
    }
    assert lines(draw("allocations", [row | {"allocated_bytes": 14336}])) == [
        "ARRAY  MASTER PORT  REMOTE PORT    ADDRESS  ALLOCATED  UNITS",
        "M      211.19.1.20  133.185.12.20  0x10000      14KiB      7",
    ]


def test_table_1500_has_the_rows_of_figure_12() -> None:
    rows = [P1 | {"buffer_id": 10000}, P2 | {"buffer_id": 15000}]
    assert lines(draw("buffer-ids", rows)) == [
        "MASTER PORT  REMOTE PORT    BUFFER ID",
        "211.19.1.20  133.185.12.20      10000",
        "211.19.3.85  172.83.1.21        15000",
    ]


def test_a_channel_that_is_not_measured_yet_shows_dashes() -> None:
    row = P1 | {"bandwidth_bps": None, "rtt_ns": None, "sessions": 1, "connections_per_session": 1}
    assert lines(draw("channels", [row], headers=False)) == ["211.19.1.20  133.185.12.20  -  -  1  1  -"]


def test_the_port_number_column_appears_where_a_row_has_one() -> None:
    rows: list[dict[str, Any]] = [{**P1}, P2 | {"remote_port_number": 25}]
    assert lines(draw("channels", rows))[0].count("PORT") == 3
    assert lines(draw("channels", [P1]))[0].count("PORT") == 2


def test_wide_adds_columns_and_takes_none_away() -> None:
    for name, layout in LAYOUTS.items():
        narrow = draw(name, [{"array": "M"}]).splitlines()[0].split("  ")
        wide = draw(name, [{"array": "M"}], wide=True)
        assert all(heading.strip() in wide for heading in narrow)
        assert layout.title


def test_an_empty_table_still_says_what_it_would_have() -> None:
    assert draw("buffer-ids", []) == "ARRAY  MASTER PORT  REMOTE PORT  BUFFER ID"
    assert draw("buffer-ids", [], headers=False) == ""
    for name, layout in LAYOUTS.items():
        assert all(column.heading in draw(name, [], wide=True) for column in layout.columns)


def test_a_rule_under_the_headings_is_as_wide_as_the_columns() -> None:
    assert lines(draw("buffer-ids", [P1 | {"buffer_id": 1}], style="simple")) == [
        "MASTER PORT  REMOTE PORT    BUFFER ID",
        "-----------  -------------  ---------",
        "211.19.1.20  133.185.12.20          1",
    ]


#: A row as wide as rows get on ordinary sites, for each table.
ORDINARY: dict[str, dict[str, Any]] = {
    "reservations": {
        "array": "master",
        "target": {"local_port": "192.168.10.120", "remote_port": "192.168.20.120"},
        "buffer_address": 0x1028C000,
        "reserved_bytes": 1_523_713,
        "reserved_units": 93,
        "in_use_units": 93,
        "state": "reserved",
    },
    "channels": {
        "local_port": "192.168.10.120",
        "remote_port": "192.168.20.120",
        "bandwidth_bps": 99_986_000,
        "rtt_ns": 20_134_000,
        "sessions": 2,
        "connections_per_session": 3,
        "measured_at": "2026-11-22T18:18:02.791+00:00",
        "stale": False,
    },
    "allocations": {
        "array": "master",
        "target": {"local_port": "192.168.10.120", "remote_port": "192.168.20.120"},
        "buffer_address": 0x1028C000,
        "allocated_bytes": 1_523_713,
        "allocated_units": 65536,
    },
    "buffer-ids": {"local_port": "192.168.10.120", "remote_port": "192.168.20.120", "buffer_id": 2**32},
    "pools": {
        "array": "master",
        "interface": "tcp0",
        "kind": "tcp",
        "unit_bytes": 16384,
        "total_units": 65536,
        "free_units": 65536,
        "reserved_idle_units": 65536,
        "in_use_units": 65536,
        "draining_units": 65536,
        "expandable_units": 65536,
    },
    "arrays": {"array": "master", "state": "down", "ports": ["192.168.10.120"] * 2, "volumes": []},
    "ports": {"array": "master", "address": "192.168.10.120", "iqn": "iqn.2003-10.example:storage.master"},
    "pairs": {
        "array": "master",
        "remote_array": "remote",
        "local_port": "192.168.10.120",
        "remote_port": "192.168.20.120",
        "sessions": 2,
        "connections_per_session": 3,
        "recommended_bytes": 1_523_713,
        "reserved_bytes": 1_523_713,
    },
    "groups": {
        "group": "ledger",
        "array": "east",
        "role": "P-VOL",
        "volume": "vol0",
        "mode": "async",
        "state": "PAIR",
        "progress": 1.0,
        "rpo_ns": 123_400_000,
        "rpo_bytes": 1_523_713,
    },
    "copies": {
        "copy_id": "copy-0123456789ab",
        "pair": "192.168.10.120,192.168.20.120",
        "state": "running",
        "progress": 1.0,
        "in_flight_bytes": 1_523_713,
    },
    "recommend": {
        "policy": "fos-average-frame",
        "bytes": 1_523_713,
        "units": 65536,
        "unit_bytes": 16384,
        "available_bytes": 1_523_713,
        "reserved_units": 65536,
        "short_units": 65536,
    },
    "fc-credits": {
        "rule": "fos average frame",
        "credits": 16_000,
        "payload_bytes_per_second": 12_835_400_000,
        "share": 1.0,
        "meaning": "the published formula: frames that fit into the round trip",
    },
    "fc-ports": {
        "name": "south/47",
        "peer": "database7",
        "type": "F",
        "speed": "128G",
        "bb_credit": 16_000,
        "in_use_peak_credits": 16_000,
        "needed_credits": 3039,
        "tx_wait_share": 1.0,
        "load": 1.0,
        "verdict": "oversubscribed",
    },
    "fc-echo": {"echo": 64, "round_trip_ps": 1_000_123_456, "waited_ps": 0},
    "fc-flows": {
        "name": "nightly:h1>h2",
        "from": "database7",
        "to": "backup",
        "virtual_channel": 5,
        "delivered_frames": 1_000_000,
        "throughput_bps": 12_835_400_000,
        "latency_mean_ps": 27_530_000,
        "latency_max_ps": 408_800_000,
    },
    "fc-findings": {"name": "south/47", "verdict": "distance-short", "why": "180 credits short, " * 9},
    "fc-load": {
        "direction": "write",
        "payload_bytes": 1023 << 30,
        "commands": 16_760_832,
        "time_ps": 408_800_000_000,
        "payload_bytes_per_second": 12_835_400_000,
        "share": 0.991,
    },
    "fc-scsi": {
        "name": "scsi12",
        "from": "database",
        "to": "disk-array",
        "commands": 1_000_000,
        "commands_per_second": 800_000,
        "throughput_bps": 102_683_200_000,
        "latency_mean_ps": 27_530_000,
        "latency_max_ps": 408_800_000,
        "failed_commands": 100,
    },
    "fc-sweep": {
        "values": "bb_credit=256 distance=50km",
        "throughput_bps": 12_835_400_000,
        "tx_wait_share_max": 1.0,
        "missing_credits": 3039,
        "worst_port": "south/47",
        "verdict": "oversubscribed",
    },
    "target-faults": {
        "name": "third-r2t-is-lost",
        "enabled": True,
        "matched": 100_000,
        "fired": 1000,
        "rule": {
            "name": "third-r2t-is-lost",
            "action": "drop",
            "opcode": "r2t",
            "direction": "to-initiator",
            "nth": 3,
        },
    },
    "target-sessions": {
        "session": 12,
        "initiator": "iqn.2016-04.com.open-iscsi:h1",
        "target": "iqn.2003-10.example.sancredit:target",
        "connections": [{"cid": 0, "peer": "10.0.0.17:54321", "portal": "10.0.0.1:3260"}],
        "commands": 100_000,
        "read_bytes": 123_456_789,
        "written_bytes": 1,
        "tasks": 32,
    },
    "target-captures": {
        "path": "/tmp/a.pcapng",
        "file": "/tmp/a-00002.pcapng",
        "packets": 100_000,
        "error": None,
    },
    "capture-counts": {"protocol": "iscsi", "what": "pdus TASK_MANAGEMENT_RESPONSE", "count": 100_000_000},
    "capture-flows": {
        "initiator": "iqn.2016-04.com.open-iscsi:host-seventeen",
        "target": "iqn.2003-10.example.sancredit:target-of-host-seventeen",
        "lun": "255",
        "commands": 1_234_567,
        "ect_ns": {"p50": 123_456, "p99": 1_234_567, "max": 12_345_678_901},
        "outstanding_max": 128,
        "check_condition": 100,
        "busy": 1,
    },
    "capture-lines": {"number": 1_234_567, "packet": 1_234_567, "text": "SCSI_COMMAND itt 0x1, " * 9},
    "capture-fields": {"field": "expected_data_transfer_length", "value": "00 " * 100},
    "capture-violations": {
        "flow": "192.168.10.120:54321 > 192.168.20.120:3260",
        "count": 100_000,
        "packet": 1_234_567,
        "clause": "RFC 7143 11.2.1.8",
        "text": "a data segment is longer than the receiver's MaxRecvDataSegmentLength",
    },
    "capture-intervals": {
        "at_ns": 12_345_000_000,
        "commands": 123_456,
        "iops": 123_456.7,
        "throughput_bps": 12_345_678_901,
        "ect_mean_ns": 1_234_567.8,
        "ect_p99_ns": 12_345_678,
        "ect_max_ns": 123_456_789,
        "outstanding_max": 128,
    },
    "capture-fc-credits": {
        "port": "edge-17/48 in",
        "frames": 12_345_678,
        "frame_bytes_mean": 2148,
        "login_credit": 196,
        "outstanding_max": 196,
        "inferred_credit": 196,
        "zero_share": 0.998,
        "recommended_credits": 1196,
        "basis": "R_RDY and VC_RDY counted",
    },
    "capture-tcp-credits": {
        "flow": "192.168.10.120:54321 > 192.168.20.120:3260",
        "payload_bytes": 123_456_789,
        "in_flight_max_bytes": 1_234_567,
        "window_max_bytes": 12_345_678,
        "rtt_ns": 20_134_000,
        "rate_bps": 99_986_000,
        "recommended_bytes": 1_523_713,
    },
    "capture-replay": {
        "initiator": "iqn.2026-11.net.example.sancredit:initiator",
        "target": "iqn.2003-10.example.sancredit:target",
        "lun": "0",
        "commands": 123_456,
        "captured_ns": {"p50": 123_456, "p99": 123_456_789},
        "measured_ns": {"p50": 123_456, "p99": 123_456_789},
        "late_ns": {"p50": 123_456, "p99": 123_456_789},
    },
    "capture-whatif": {
        "channel": "captured",
        "setting": {
            "kind": "tcp",
            "bandwidth_bps": 99_986_000,
            "rtt_ns": 20_134_000,
            "buffer_bytes": 1_523_713,
        },
        "ect_ns": {"p50": 123_456, "p99": 123_456_789, "max": 123_456_789},
        "measured_ns": {"p50": 123_456, "p99": 123_456_789},
        "error": {"p50": 0.123},
        "rate_bps": 99_986_000,
        "stalls": 12_345,
        "stalled_ns": 123_456_789,
    },
    "capture-simulate": {
        "initiator": "01.01.00",
        "target": "01.02.00",
        "kind": "read",
        "commands": 123_456,
        "unanswered": 0,
        "measured_ns": {"p50": 123_456, "p99": 123_456_789},
        "predicted_ns": {"p50": 123_456, "p99": 123_456_789},
    },
    "lio-steps": {"step": 1, "kind": "make", "what": "a long sentence, " * 9},
    "lio-targets": {
        "target": "iqn.2026-11.example:disk-17",
        "fabric": "iscsi",
        "group": 1,
        "enabled": True,
        "portals": ["0.0.0.0:3260"],
        "lun": 0,
        "backstore": "fileio disk",
        "sessions": 2,
        "commands": 12_345,
        "read_bytes": 1_234_567,
        "written_bytes": 1_234_567,
    },
    "tokens": {
        "name": "night-shift",
        "role": "operator",
        "state": "valid",
        "created_at": "2026-11-22T12:00:00+00:00",
        "expires_at": "2026-12-22T12:00:00+00:00",
        "previous_until": None,
    },
    "terms": {"term": "bytes_per_second", "value": 10**12, "meaning": "a long sentence, " * 9},
    "alarms": {
        "number": 12345,
        "severity": "critical",
        "state": "acknowledged",
        "kind": "credit-starvation",
        "raised_at": "2026-01-31T12:00:00.000+00:00",
        "subject": "port pair 211.19.1.20->133.185.12.20",
        "text": "a long sentence, " * 9,
    },
    "events": {
        "at": "2026-01-31T12:00:00.000+00:00",
        "kind": "alarm-acknowledged",
        "by": "operator-17",
        "text": "a long sentence, " * 9,
    },
    "history": {
        "at": "2026-01-31T12:00:00.000+00:00",
        "span_s": 21600,
        "samples": 21600,
        **dict.fromkeys(("bandwidth_bps", "bandwidth_min_bps"), 123_456_789_012),
        **dict.fromkeys(("rtt_ns", "rtt_max_ns"), 123_456_789),
    },
    "policies": {
        "target": {"kind": "port_pair", "local_port": "211.19.1.20", "remote_port": "133.185.12.20"},
        "sizing": "automatic",
        **dict.fromkeys(("size_bytes", "min_bytes", "max_bytes"), 2_100_000),
        "lease_s": 86400,
    },
    "audit": {
        "number": 123456,
        "at": "2026-01-31T12:00:00.000+00:00",
        "by": "operator",
        "verb": "reserve-both-ends",
        "stage": "settled",
        "subject": "211.19.1.20->133.185.12.20",
        "array": "M",
        "after": {"reserved_units": 1026},
    },
    "outlook": {
        "order": 12,
        "array": "M",
        "target": {"kind": "port_pair", "local_port": "211.19.1.20", "remote_port": "133.185.12.20"},
        "action": "partial",
        **dict.fromkeys(("reserved_units", "wanted_units", "units", "short_units", "free_units"), 1026),
    },
    "cures": {"array": "M", "units": 1026, "text": "a long sentence, " * 9},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_default_table_fits_a_terminal_of_80_columns(name: str) -> None:
    for style in ("plain", "simple"):
        shown = lines(draw(name, [ORDINARY[name]], style=style))
        assert max(map(len, shown)) <= 80, shown


def test_a_sentence_is_wrapped_and_whole_in_wide() -> None:
    row = ORDINARY["terms"]
    assert len(lines(draw("terms", [row]))) == 1 + 4
    assert row["meaning"].strip() in draw("terms", [row], wide=True)


def test_csv_has_every_value_that_a_column_shows() -> None:
    for name, layout in LAYOUTS.items():
        row = {field.partition(".")[0] for field in layout.fields}
        assert set(ORDINARY[name]) <= row, name
        assert len(set(layout.fields)) == len(layout.fields)


def test_a_channel_says_when_it_was_measured_or_that_this_is_too_long_ago() -> None:
    row = ORDINARY["channels"]
    assert "  18:18:02Z" in draw("channels", [row])
    assert draw("channels", [row | {"stale": True}], headers=False).endswith("  stale")
    assert "2026-11-22T18:18:02.791+00:00" in draw("channels", [row | {"stale": True}], wide=True)


def test_japanese_names_keep_the_columns_in_line() -> None:
    text = draw("ports", [{"array": "東京", "address": "a"}, {"array": "Oslo", "address": "b"}])
    assert lines(text)[1].startswith("東京   a")
    assert lines(text)[2].startswith("Oslo   b")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (2048, "2KiB"),
        (2148, "2148B"),
        (2_100_000, "2.003MiB"),
        (2_101_248, "2.004MiB"),
        (65_990, "64.44KiB"),
        (86_294, "84.27KiB"),
        (123_456_789, "117.7MiB"),
        (1023 * 1024, "1023KiB"),
        (5000 * 1024**3, "5000GiB"),
        (64 * 1024**2, "64MiB"),
    ],
)
def test_sizes_are_binary_with_four_digits_that_count(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(("value", "text"), [(16_966, "16.97us"), (20_000_000, "20ms"), (999, "999ns")])
def test_delays_are_in_a_unit_that_fits(value: int, text: str) -> None:
    assert delay(value) == text


@pytest.mark.parametrize(("value", "text"), [(100_000_000, "100Mbit"), (3_696_123_456, "3.696Gbit")])
def test_rates_are_in_a_unit_that_fits(value: int, text: str) -> None:
    assert rate(value) == text


def test_no_buffer_has_no_address() -> None:
    assert (address(0), address(0xFF00CC)) == ("-", "0xFF00CC")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["array", "target", "buffer_address", "reserved_bytes", "progress", "pair", "ports", "volumes", "rtt_ns"]
)


@given(st.sampled_from(sorted(LAYOUTS)), st.lists(st.dictionaries(KEYS, JSON), max_size=3))
def test_any_row_is_drawn_on_one_line_without_control_signs(name: str, rows: list[dict[str, object]]) -> None:
    text = draw(name, rows, wide=True)
    assert len(text.split("\n")) == len(rows) + 1
    assert text.replace("\n", "").isprintable()


@given(
    data=st.data(),
    right=st.lists(st.booleans(), min_size=1, max_size=5),
    height=st.integers(1, 5),
)
def test_simple_cells_are_aligned_as_tabulate_aligns_them(
    data: st.DataObject, right: list[bool], height: int
) -> None:
    from tabulate import tabulate

    cell = st.text(st.characters(max_codepoint=0x250, exclude_categories=("Cc",)), max_size=12).filter(
        _is_simple
    )
    table = data.draw(
        st.lists(st.lists(cell, min_size=len(right), max_size=len(right)), min_size=height, max_size=height)
    )
    told = tabulate(
        table,
        tablefmt="plain",
        disable_numparse=True,
        colalign=["right" if numeric else "left" for numeric in right],
    )
    assert _aligned(table, right).splitlines() == told.splitlines()


@pytest.mark.parametrize("cell", ["容量", "a\nb", " a", "e\u0301", "\u200b", "\x1b[1m"])
def test_other_cells_are_left_to_tabulate(cell: str) -> None:
    assert not _is_simple(cell)
