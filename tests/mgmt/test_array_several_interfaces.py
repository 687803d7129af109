"""An array with several communication interfaces of either kind: each has its own pool, port, and tables."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from credits.errors import Code
from credits.targets import Target, new_connection, port_pair, volume_pair
from fcsim.errors import FibreChannelError
from fcsim.live.fcp import LiveFcpInitiator, connect_as_initiator, end_config
from fcsim.live.shell import LiveLink
from fcsim.speeds import SPEEDS
from iscsi_target.initiator import Initiator
from mgmt.http import PeerRefused
from mgmt.messages import (
    BufferHoldRequest,
    BufferHoldResponse,
    BufferReserveRequest,
    BufferReserveResponse,
    HoldConfirmRequest,
    HoldVoidRequest,
    InterfaceInfoGetRequest,
    InterfaceInfoGetResponse,
    ReservationReleaseRequest,
)
from tests.mgmt.array_processes import (
    ArrayProcess,
    array,
    command,
    configured_array,
    start_copy,
    start_requests,
)

pytestmark = pytest.mark.slow

FIRST, SECOND = "127.0.0.1", "127.0.0.3"
WWPN, PEER_WWPN = "50:06:01:60:3b:a0:11:22", "10:00:00:00:c9:00:00:01"
FRAME = 2148

TCP = f"""
[[interface]]
address = "{FIRST}"
iscsi_port = 0
units = 64
[[interface]]
name = "wan"
address = "{SECOND}"
iscsi_port = 0
unit = "4KiB"
units = 256
"""
VOLUMES = """
[[volume]]
name = "vol0"
store = "1MiB"
[[volume]]
name = "secret"
store = "1MiB"
hosts = false
"""


def fibre(directory: Path, reserved: str = "") -> str:
    return f"""
[[interface]]
kind = "fc"
name = "fc0"
address = "{WWPN}"
link = "unix:{directory / "link"}"
speed = "8G"
distance = "10km"
credits = 100
unreserved = 4
time_scale = 2000
{reserved}
"""


def pools(running: ArrayProcess) -> dict[str, dict[str, Any]]:
    found = {}
    for pool in running.table("pools"):
        parts = ("free_units", "reserved_idle_units", "in_use_units", "draining_units")
        assert sum(pool[part] for part in parts) == pool["total_units"], "the law of conservation"
        found[pool["interface"]] = pool
    return found


def ports(running: ArrayProcess) -> dict[str, dict[str, Any]]:
    return {port["interface"]: port for port in running.table("info")["ports"]}


def reserve(running: ArrayProcess, target: Target, size_bytes: int, via: str | None = None) -> Any:
    return running.peer.send(BufferReserveRequest(target=target, requested_bytes=size_bytes, via=via))


def test_every_interface_has_its_own_port_pool_and_reservations(tmp_path: Path) -> None:
    with configured_array(tmp_path, "east", TCP + fibre(tmp_path) + VOLUMES) as east:
        found = ports(east)
        assert [(name, port["kind"], port["address"]) for name, port in found.items()] == [
            ("tcp0", "tcp", FIRST),
            ("wan", "tcp", SECOND),
            ("fc0", "fc", WWPN),
        ]
        assert east.ready[0].startswith(f"listening iscsi://{FIRST}:")
        assert east.ready[2] == f"listening fc://{WWPN}@unix:{tmp_path / 'link'}"
        reserve(east, port_pair(FIRST, "192.0.2.1"), 10 * 16384)
        reserve(east, port_pair(SECOND, "192.0.2.1"), 20 * 4096)
        reserve(east, port_pair(WWPN, PEER_WWPN), 30 * FRAME)
        kinds = {name: (pool["kind"], pool["reserved_idle_units"]) for name, pool in pools(east).items()}
        assert kinds == {"tcp0": ("tcp", 10), "wan": ("tcp", 20), "fc0": ("fc", 30)}
        rows = {(row["interface"], row["kind"]): row["reserved_units"] for row in east.table("reservations")}
        assert rows == {("tcp0", "tcp"): 10, ("wan", "tcp"): 20, ("fc0", "fc"): 30}
        answer = east.peer.send(InterfaceInfoGetRequest(target=port_pair(WWPN, PEER_WWPN)))
        assert isinstance(answer, InterfaceInfoGetResponse)
        assert (answer.unit_bytes, answer.available_units, answer.reserved_units) == (FRAME, 70, 30)
        with pytest.raises(PeerRefused, match=r"no port '192\.0\.2\.9'; its ports"):
            reserve(east, port_pair("192.0.2.9", "192.0.2.1"), 5)


def test_a_target_without_a_port_goes_where_it_is_said_or_where_it_is_already(tmp_path: Path) -> None:
    target = volume_pair("vol0", "vol0")
    with configured_array(tmp_path, "east", TCP + VOLUMES) as east:
        with pytest.raises(PeerRefused, match="several interfaces; name the port"):
            reserve(east, target, 4096)
        reserve(east, target, 4096, via=SECOND)
        reserve(east, target, 3 * 4096)
        assert pools(east)["wan"]["reserved_idle_units"] == 3
        one, other = (reserve(east, new_connection(port, "192.0.2.1"), 1) for port in (FIRST, SECOND))
        assert one.buffer_id != other.buffer_id, "an ID names one reservation of the array"
        east.peer.send(ReservationReleaseRequest(target=Target(one.target.kind, buffer_id=other.buffer_id)))
        assert [row["buffer_id"] for row in east.table("buffer-ids")] == [one.buffer_id]


def test_a_hold_is_confirmed_and_voided_at_the_interface_that_has_it(tmp_path: Path) -> None:
    with configured_array(tmp_path, "east", TCP + VOLUMES) as east:
        holds = []
        for port in (FIRST, SECOND):
            request = BufferHoldRequest(
                target=port_pair(port, "192.0.2.1"), requested_bytes=16384, ttl_ns=30 * 10**9
            )
            held = east.peer.send(request)
            assert isinstance(held, BufferHoldResponse)
            holds.append(held.hold)
        confirmed = east.peer.send(HoldConfirmRequest(hold=holds[1]))
        assert isinstance(confirmed, BufferReserveResponse) and confirmed.reserved_units == 4
        east.peer.send(HoldVoidRequest(hold=holds[0]))
        assert pools(east)["tcp0"]["free_units"] == 64
        with pytest.raises(PeerRefused) as refusal:
            east.peer.send(HoldConfirmRequest(hold="wan.0123456789abcdef-1"))
        assert refusal.value.code == Code.STALE


def test_a_copy_draws_on_the_pool_of_the_interface_it_leaves_by(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(range(256)) * 16384)
    text = TCP + f'[[volume]]\nname = "vol0"\nstore = "{image}"\n'
    with (
        configured_array(tmp_path, "east", text) as east,
        array(tmp_path, "west", "127.0.0.2", "--volume", "vol0=4MiB") as west,
    ):
        pair = port_pair(SECOND, "127.0.0.2")
        reserve(east, pair, 60 * 4096)
        answers = start_copy(east, start_requests(west.port, 1, 3, target=pair))
        assert not any(isinstance(answer, PeerRefused) for answer in answers), answers
        assert east.wait_until_over().state == "done"
        assert east.digest() == west.digest()
        assert pools(east)["tcp0"]["free_units"] == 64
        assert pools(east)["wan"]["reserved_idle_units"] == 60


def test_hosts_do_not_see_a_volume_that_is_kept_from_them(tmp_path: Path) -> None:
    async def luns(port: dict[str, Any]) -> list[int]:
        initiator = await Initiator.login(
            port["address"], port["iscsi_port"], port["iqn"], initiator_iqn="iqn.2026-11.example:host"
        )
        try:
            return list(await initiator.report_luns())
        finally:
            await initiator.logout()

    with configured_array(tmp_path, "east", TCP + VOLUMES) as east:
        assert asyncio.run(luns(ports(east)["tcp0"])) == [0]


# --- Fibre Channel -----------------------------------------------------------------------------------------


async def log_in_and_write(link: Path, blocks: int) -> int:
    """Plug into the array's link, write and read blocks; the credits that the login granted."""
    config = end_config(
        "host", speed=SPEEDS["8G"], port_name=int(PEER_WWPN.replace(":", ""), 16), wants_targets=True
    )
    connected = await connect_as_initiator(link, config)
    try:
        disk = LiveFcpInitiator(connected)
        data = bytes(range(256)) * 2 * blocks
        await disk.write(0, data)
        assert await disk.read(0, blocks) == data
        (channel,) = connected.end.statistics().channels
        return channel.transmit_bb_credit
    finally:
        await connected.close()


def unplugged(east: ArrayProcess) -> None:
    """Wait until the array has noticed that the other end is gone."""
    while ports(east)["fc0"]["state"] != "waiting":
        time.sleep(0.005)


def test_the_login_of_the_other_end_is_granted_what_is_reserved_in_the_port_group(tmp_path: Path) -> None:
    """Paragraph 24: the credits are receive buffers of this array, and bound the live link."""
    pair = port_pair(WWPN, PEER_WWPN)
    with configured_array(
        tmp_path, "east", fibre(tmp_path) + VOLUMES, "--state", str(tmp_path / "s")
    ) as east:
        assert ports(east)["fc0"]["state"] == "waiting"
        assert asyncio.run(log_in_and_write(tmp_path / "link", 16)) == 4
        unplugged(east)
        reserve(east, pair, 20 * FRAME)
        assert asyncio.run(log_in_and_write(tmp_path / "link", 16)) == 24
        unplugged(east)
        assert pools(east)["fc0"]["reserved_idle_units"] == 20

    with configured_array(
        tmp_path, "east", fibre(tmp_path) + VOLUMES, "--state", str(tmp_path / "s")
    ) as east:
        assert asyncio.run(log_in_and_write(tmp_path / "link", 16)) == 24, "the journal kept it"


def test_a_reservation_beyond_what_a_login_granted_asks_for_a_new_login(tmp_path: Path) -> None:
    pair = port_pair(WWPN, PEER_WWPN)

    async def body(east: ArrayProcess) -> None:
        config = end_config(
            "host", speed=SPEEDS["8G"], port_name=int(PEER_WWPN.replace(":", ""), 16), wants_targets=True
        )
        link = await connect_as_initiator(tmp_path / "link", config)
        try:
            row = (await asyncio.to_thread(ports, east))["fc0"]
            assert (row["state"], row["peer_wwpn"], row["rx_bb_credit"]) == ("up", PEER_WWPN, 24)
            with pytest.raises(PeerRefused) as refusal:
                await asyncio.to_thread(reserve, east, pair, 21 * FRAME)
            assert refusal.value.code == Code.RELOGIN_REQUIRED
            answer = await asyncio.to_thread(reserve, east, pair, 10 * FRAME)
            assert answer.reserved_units == 10
            answer = await asyncio.to_thread(reserve, east, pair, 20 * FRAME)
            assert answer.reserved_units == 20, "within the grant it may grow again"
        finally:
            await link.close()

    with configured_array(tmp_path, "east", fibre(tmp_path) + VOLUMES) as east:
        reserve(east, pair, 20 * FRAME)
        asyncio.run(body(east))
        unplugged(east)
        assert pools(east)["fc0"]["reserved_idle_units"] == 20


def test_a_stranger_at_the_link_is_shown_out_and_the_next_end_is_served(tmp_path: Path) -> None:
    async def stranger() -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "link"))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    with configured_array(tmp_path, "east", fibre(tmp_path) + VOLUMES) as east:
        asyncio.run(stranger())
        unplugged(east)
        assert asyncio.run(log_in_and_write(tmp_path / "link", 1)) == 4


def test_hosts_at_other_ports_of_the_group_borrow_its_free_buffers_and_give_them_back(tmp_path: Path) -> None:
    async def plug_in(link: str, who: int) -> LiveLink:
        return await connect_as_initiator(
            tmp_path / link, end_config(f"host{who}", port_name=(1 << 60) + who, wants_targets=True)
        )

    async def storm() -> None:
        first = await plug_in("link.1", 1)
        assert pools(east)["fc0"]["free_units"] == 10, "a login borrows what it wants"
        second = await plug_in("link.2", 2)
        assert pools(east)["fc0"]["free_units"] == 0, "or what is left"
        with pytest.raises(FibreChannelError):
            await connect_as_initiator(tmp_path / "link", end_config("copy", wants_targets=True))
        await LiveFcpInitiator(first).write(0, bytes(512))
        for link in (first, second):
            await link.close()

    hosts = "host_ports = 2\nhost_credits = 90"
    with configured_array(tmp_path, "east", fibre(tmp_path, hosts) + VOLUMES) as east:
        asyncio.run(storm())
        while pools(east)["fc0"]["free_units"] < 100:
            time.sleep(0.005)
        assert list(ports(east)) == ["fc0"]
        assert asyncio.run(log_in_and_write(tmp_path / "link", 1)) == 4


def test_the_command_line_shows_fibre_channel_ports_as_switches_do(tmp_path: Path) -> None:
    station = f"unix:{tmp_path / 'station.sock'}"

    def get(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("get", "ports", *arguments, "--station", station),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    with configured_array(tmp_path, "east", TCP + fibre(tmp_path) + VOLUMES) as east:
        reserve(east, port_pair(WWPN, PEER_WWPN), 20 * FRAME)
        served = subprocess.Popen(
            command(
                *("station", "serve", "--listen", station, "--state", str(tmp_path / "station")),
                *("--array", f"east={east.peer.address}"),
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert served.stdout is not None
        try:
            while not served.stdout.readline().startswith("listening"):
                assert served.poll() is None
            table = get("-o", "wide")
            assert table.returncode == 0, table.stderr
            assert WWPN in table.stdout and "8G" in table.stdout
            fos, nxos = get("--style", "fos"), get("--style", "nxos")
            assert fos.returncode == nxos.returncode == 0, fos.stderr + nxos.stderr
            assert "fc0" in fos.stdout and "tim_txcrd_z" in fos.stdout
            assert "Receive B2B Credit is" in nxos.stdout
        finally:
            served.terminate()
            served.wait(60)
            served.stdout.close()


def test_a_copy_between_two_arrays_over_fibre_channel_is_bounded_by_what_both_have_reserved(
    tmp_path: Path,
) -> None:
    """The receiving array's port group grants the reservation at login; the sender allocates its own (paragraph 24)."""
    image = tmp_path / "a.img"
    image.write_bytes(bytes(range(256)) * 1024)
    near = f"""
[[interface]]
kind = "fc"
name = "fc0"
address = "{PEER_WWPN}"
distance = "10km"
credits = 100
unreserved = 4
[[volume]]
name = "vol0"
store = "{image}"
"""
    far = fibre(tmp_path) + '[[volume]]\nname = "vol0"\nstore = "256KiB"\n'
    with (
        configured_array(tmp_path, "east", near) as east,
        configured_array(tmp_path, "west", far) as west,
    ):
        reserve(west, port_pair(WWPN, PEER_WWPN), 20 * FRAME)
        reserve(east, port_pair(PEER_WWPN, WWPN), 16 * FRAME)
        requests = start_requests(
            {"address": WWPN, "iscsi_port": 1, "copy_iqn": WWPN},
            1,
            2,
            target=port_pair(PEER_WWPN, WWPN),
            remote_link=ports(west)["fc0"]["link"],
        )
        # The copy begins when its second connection is up: until then the login can be looked at.
        answers = start_copy(east, requests[:1])
        granted = ports(west)["fc0"]["rx_bb_credit"]
        answers += start_copy(east, requests[1:])
        assert not any(isinstance(answer, PeerRefused) for answer in answers), answers
        assert granted == 24, "20 reserved and 4 unreserved credits"
        while (status := east.status()).state not in ("done", "failed", "stopped"):
            assert ports(west)["fc0"]["rx_bb_credit"] in (0, 24)
            assert pools(east)["fc0"]["in_use_units"] <= 16
        assert status.state == "done", status
        assert east.digest() == west.digest()
        (row,) = east.table("copies")
        assert 0 < row["max_in_flight_bytes"] <= 16 * FRAME
        assert pools(east)["fc0"]["reserved_idle_units"] == 16
        unplugged(west)
        assert pools(west)["fc0"]["reserved_idle_units"] == 20
