"""The station's /metrics, and the alert rules and dashboard that read it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mgmt.api import metrics
from mgmt.api.app import make_app
from mgmt.array.replication.job import State
from mgmt.http import ServerThread
from tests.mgmt.station_stand_ins import LOCAL, REMOTE, Site, site

MONITORING = Path(__file__).resolve().parents[2] / "examples" / "monitoring"
WWPN = "50:06:01:60:3b:a0:11:22"
POOL = {
    "interface": "tcp0",
    "kind": "tcp",
    "unit_bytes": 2048,
    "total_units": 100,
    "free_units": 35,
    "reserved_idle_units": 25,
    "in_use_units": 30,
    "draining_units": 10,
    "expandable_units": 4,
    "degraded_units": 0,
}
FC_PORT = {
    "address": WWPN,
    "interface": "fc0",
    "kind": "fc",
    "wwpn": WWPN,
    "peer_wwpn": "50:06:01:60:40:a0:11:22",
    "state": "up",
    "speed": "8G",
    "bb_credit": 40,
    "credit_zero_transitions": 7,
    "rx_credit_zero_transitions": 3,
    "credit_zero_time_ps": 2_500_000_000_000,
    "lost_credits": 1,
    "recovered_credits": 1,
    "tx_frames": 1000,
    "rx_frames": 500,
    "tx_payload_bytes": 2_048_000,
    "rx_payload_bytes": 1_024_000,
    "discards": 2,
    "link_resets": 0,
    "corrupted_frames": 5,
}


def fill(place: Site) -> None:
    """The rows that arrays of this version send."""
    target = {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE}
    row = {"interface": "tcp0", "target": target, "reserved_bytes": 4096, "in_use_units": 1}
    place.master.rows = {
        "pools": [POOL],
        "reservations": [row, row],
        "copies": [
            {
                "copy_id": "c1",
                "state": "copying",
                "progress": 0.5,
                "in_flight_bytes": 7,
                "rpo_ns": 2_000_000_000,
            }
        ],
    }
    info = place.master.info()
    place.master.info = lambda: info | {"ports": [info["ports"][0] | {"interface": "tcp0"}, FC_PORT]}  # type: ignore[method-assign]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    with site(tmp_path) as place:
        fill(place)
        with (
            ServerThread(make_app(place.station), "http://127.0.0.1:0") as thread,
            httpx.Client(base_url=f"http://{thread.address.host_and_port}", timeout=60) as made,
        ):
            target = {"kind": "port_pair", "local_port": LOCAL, "remote_port": REMOTE}
            made.post("/api/v1/recommend", json={"target": target}).raise_for_status()
            made.get("/messages")
            yield made


def samples(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_what_arrays_and_table_108_say_is_exported(client: httpx.Client) -> None:
    found = samples(client)
    of_pool = {"array": "M", "interface": "tcp0", "kind": "tcp"}
    states = {
        state: found[labelled("sancredit_pool_units", **of_pool, state=state)] for state in metrics._STATES
    }
    assert states == {"free": 35, "reserved_idle": 25, "in_use": 30, "draining": 10}
    assert sum(states.values()) == POOL["total_units"]
    of_interface = {"array": "M", "interface": "tcp0"}
    assert found[labelled("sancredit_reservations", **of_interface)] == 2
    assert found[labelled("sancredit_reserved_bytes", **of_interface)] == 8192
    pair = {"local_port": LOCAL, "remote_port": REMOTE, "remote_port_number": ""}
    assert found[labelled("sancredit_channel_round_trip_seconds", **pair)] == 0.28
    assert found[labelled("sancredit_channel_bandwidth_bytes_per_second", **pair)] == 1_250_000
    of_port = {"array": "M", "port": WWPN}
    assert found[labelled("sancredit_fc_port_credit_zero_seconds_total", **of_port)] == 2.5
    assert found[labelled("sancredit_fc_port_credit_zero_transitions_total", **of_port)] == 7
    assert found[labelled("sancredit_copy_recovery_point_seconds", array="M", copy="c1")] == 2
    assert found[labelled("sancredit_array_up", array="M")] == 1


def test_series_are_bounded_and_what_is_left_out_is_counted(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SERIES_LIMIT", 0)
    found = samples(client)
    assert found[labelled("sancredit_pools_not_listed")] == 1
    assert not any(name == "sancredit_pool_units" for name, _ in found)


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bsancredit_\w+", text))


def exported(client: httpx.Client) -> set[str]:
    known = {name for name, _ in samples(client)}
    # What is only there once something has happened.
    return known | {"sancredit_station_refused_requests_total", "sancredit_copy_reserved_bytes"}


def test_alert_rules_and_dashboard_read_only_what_is_exported(client: httpx.Client) -> None:
    known = exported(client)
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    dashboard: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    said = [rule["expr"] for rule in rules]
    said += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(rules) >= 8 and len(said) >= 20
    for text in said:
        assert names_in(text) <= known, text
    states = {state for text in said for state in re.findall(r'copy_state\{state="(\w+)"', text)}
    assert states and states <= {state.value for state in State}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_promtool_accepts_the_alert_rules_and_the_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    for what, file in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        done = subprocess.run(
            [promtool, "check", what, str(MONITORING / file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_to_say_about_the_exposition(client: httpx.Client) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    own = "".join(
        line + "\n"
        for line in client.get("/metrics").text.splitlines()
        if " process_" not in line and line[:8] != "process_"
    )
    done = subprocess.run(
        [promtool, "check", "metrics"], input=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
