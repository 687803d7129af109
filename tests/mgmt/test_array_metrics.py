"""An array's own ``/metrics``: why connections are not faster, as series; and what its station is alarmed by."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from credits.targets import port_pair
from iscsi_target.tcp_diagnosis import Limit
from mgmt.array import metrics
from mgmt.array.metrics import ArraySnapshot, exposition
from mgmt.http import Peer, PeerRefused
from mgmt.messages import CopyStopRequest
from tests.mgmt.array_processes import command, configured_array, start_copy, start_requests

POOL: dict[str, Any] = {
    "interface": "fc0",
    "kind": "fc",
    "free_units": 3,
    "reserved_idle_units": 2,
    "in_use_units": 1,
    "draining_units": 0,
    "credit_zero_percent": 12.5,
}


def link(number: int, limited_by: str = "rwnd-limited") -> dict[str, Any]:
    return {
        "session": 0,
        "connection": number,
        "limited_by": limited_by,
        "in_flight_bytes": 10,
        "limit_bytes": 20,
        "sent_bytes": 30,
        "snd_cwnd_bytes": 40 if limited_by else None,
        "rtt_ns": 20_000_000 if limited_by else None,
        "busy_percent": 90 if limited_by else None,
        "reservation_percent": 75 if limited_by else None,
        "peer_percent": 25 if limited_by else None,
        "retransmitted_segments": 7 if limited_by else None,
    }


def copy(*links: dict[str, Any]) -> dict[str, Any]:
    return {"copy_id": "c1", "acknowledged_bytes": 5, "progress": 0.5, "links": list(links)}


def scraped(snapshot: ArraySnapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text, _ = exposition(lambda: snapshot)("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("word", list(Limit))
def test_what_limits_a_connection_is_one_of_four_states(word: Limit) -> None:
    found = scraped(ArraySnapshot([], [copy(link(0, word.value))], []))
    states = {
        dict(labels)["limit"]: value
        for (name, labels), value in found.items()
        if name == "sancredit_array_connection_limited"
    }
    assert states == {one.value: float(one is word) for one in Limit}


def test_a_connection_that_is_too_young_has_no_state_and_no_window() -> None:
    names = {name for name, _ in scraped(ArraySnapshot([], [copy(link(0, ""))], []))}
    assert "sancredit_array_connection_limited" not in names
    assert "sancredit_array_connection_congestion_window_bytes" not in names
    assert not {name for name in names if "retransmitted" in name or "_ratio" in name} - {
        "sancredit_array_copy_progress_ratio"
    }
    assert "sancredit_array_connection_in_flight_bytes" in names


def test_shares_of_the_time_and_what_was_sent_again_are_series() -> None:
    found = scraped(ArraySnapshot([], [copy(link(0))], []))
    labels = (("connection", "0"), ("copy", "c1"), ("session", "0"))
    assert found["sancredit_array_connection_busy_ratio", labels] == 0.9
    assert found["sancredit_array_connection_retransmitted_segments_total", labels] == 7
    waited = {
        dict(more)["for"]: value for (name, more), value in found.items() if name.endswith("waiting_ratio")
    }
    assert waited == {"reservation": 0.75, "peer": 0.25}


def test_connections_beyond_the_limit_are_counted_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CONNECTIONS_LIMIT", 2)
    found = scraped(ArraySnapshot([], [copy(*map(link, range(5)))], []))
    assert found["sancredit_array_connections_not_listed", ()] == 3
    assert sum(name == "sancredit_array_connection_in_flight_bytes" for name, _ in found) == 2


def test_units_by_state_and_the_time_without_credit() -> None:
    found = scraped(ArraySnapshot([POOL, POOL | {"interface": "tcp0", "credit_zero_percent": None}], [], []))
    labels = (("interface", "fc0"), ("kind", "fc"), ("state", "free"))
    assert found["sancredit_array_pool_units", labels] == 3
    shares = {labels: value for (name, labels), value in found.items() if name.endswith("credit_zero_ratio")}
    assert shares == {(("interface", "fc0"),): 0.125}


# --- a real one, on Fibre Channel ---------------------------------------------------------------------------

NEAR, FAR = "10:00:00:00:c9:00:00:01", "50:06:01:60:3b:a0:11:22"


def fibre(address: str, link_file: Path | None) -> str:
    plugged = "" if link_file is None else f'link = "unix:{link_file}"\ntime_scale = 2000\n'
    return (
        f'[[interface]]\nkind = "fc"\nname = "fc0"\naddress = "{address}"\nspeed = "8G"\ndistance = "50km"\n'
        f'credits = 100\nunreserved = 2\n{plugged}[[volume]]\nname = "vol0"\nstore = "64MiB"\n'
    )


def alarms(station: Peer) -> list[dict[str, Any]]:
    return [one for one in station.get("/api/v1/alarms")["items"] if one["kind"] == "credit-starvation"]


@pytest.mark.slow
def test_a_copy_with_far_too_few_credits_raises_the_stations_alarm_until_it_is_over(tmp_path: Path) -> None:
    """From the live link's counters through the array's pool row to the station's alarm, and away again."""
    with (
        configured_array(tmp_path, "east", fibre(NEAR, None)) as east,
        configured_array(tmp_path, "west", fibre(FAR, tmp_path / "link")) as west,
    ):
        assert east.table("pools")[0]["credit_zero_percent"] is None, "no link, no share"
        station = subprocess.Popen(
            command(
                *("station", "serve", "--listen", f"unix:{tmp_path}/s.sock", "--state", str(tmp_path / "st")),
                *("--array", f"east=unix:{tmp_path}/east.sock", "--array", f"west=unix:{tmp_path}/west.sock"),
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert station.stdout is not None and station.stdout.readline().startswith("listening")
            with Peer(f"unix:{tmp_path}/s.sock", 60.0) as peer:
                for running, target in ((west, port_pair(FAR, NEAR)), (east, port_pair(NEAR, FAR))):
                    running.reserve(2 * 2148, target)
                requests = start_requests(
                    {"address": FAR, "iscsi_port": 1, "copy_iqn": FAR},
                    1,
                    1,
                    target=port_pair(NEAR, FAR),
                    remote_link=f"unix:{tmp_path / 'link'}",
                )
                answers = start_copy(east, requests)
                assert not any(isinstance(answer, PeerRefused) for answer in answers), answers
                while not (found := alarms(peer)):
                    time.sleep(0.1)
                assert [one["array"] for one in found] == ["east"], "it is the sender that lacks credits"
                assert "fc0" in found[0]["subject"]
                assert 5 < east.table("pools")[0]["credit_zero_percent"] <= 100
                east.peer.send(CopyStopRequest(copy_id="c1"))
                while alarms(peer):
                    time.sleep(0.1)
        finally:
            station.terminate()
            station.wait(60)
            if station.stdout is not None:
                station.stdout.close()
