"""Arrays as ``Storage``: a controller for each communication interface, its ports, their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fcsim.errors import FibreChannelError
from fcsim.speeds import parse_speed
from mgmt.api.redfish.shapes import Resource, collection, identifier, link, oem, resource, status

Row = Mapping[str, Any]
_DEFAULT_INTERFACE = "0"
#: Milliseconds of our picoseconds.
_PS_PER_MS = 10**9


class Storages:
    """The resources below ``/Storage``, from the tables of arrays, ports and pools."""

    def __init__(self, arrays: Sequence[Row], ports: Sequence[Row], pools: Sequence[Row]) -> None:
        self._arrays = {identifier(str(row["array"])): row for row in arrays}
        self._ports = ports
        self._pools = pools

    def all(self) -> Resource:
        """``/Storage``."""
        return collection("Storage", ("Storage",), "Storage arrays", self._arrays)

    def array(self, array: str) -> Resource | None:
        """``/Storage/{array}``."""
        row = self._arrays.get(array)
        if row is None:
            return None
        where = ("Storage", array)
        return resource(
            "Storage.v1_13_0",
            where,
            f"Storage array {row['array']}",
            Status=status(up=row.get("state") == "up"),
            Controllers=link(*where, "Controllers"),
            Oem=oem(
                address=row.get("address"),
                detail=row.get("detail"),
                volumes=row.get("volumes", []),
            ),
        )

    def controllers(self, array: str) -> Resource | None:
        """``/Storage/{array}/Controllers``."""
        if array not in self._arrays:
            return None
        where = ("Storage", array, "Controllers")
        return collection("StorageController", where, "Communication interfaces", self._interfaces(array))

    def controller(self, array: str, interface: str) -> Resource | None:
        """``/Storage/{array}/Controllers/{interface}``: one communication interface 208 with its pool (area 100)."""
        if interface not in self._interfaces(array):
            return None
        where = ("Storage", array, "Controllers", interface)
        pool = next((row for row in self._of(array, self._pools) if _interface(row) == interface), None)
        return resource(
            "StorageController.v1_7_0",
            where,
            f"Communication interface {interface}",
            Status=status(
                up=self._arrays[array].get("state") == "up",
                healthy=pool is None or not pool.get("degraded_units"),
            ),
            Ports=link(*where, "Ports"),
            Oem=None if pool is None else oem(BufferPool={key: pool[key] for key in pool if key != "array"}),
        )

    def ports(self, array: str, interface: str) -> Resource | None:
        """``…/Ports``."""
        if interface not in self._interfaces(array):
            return None
        where = ("Storage", array, "Controllers", interface, "Ports")
        found = [identifier(str(row["address"])) for row in self._ports_of(array, interface)]
        return collection("Port", where, f"Ports of {interface}", found)

    def port(self, array: str, interface: str, port: str) -> Resource | None:
        """``…/Ports/{port}``."""
        row = self._port(array, interface, port)
        if row is None:
            return None
        where = ("Storage", array, "Controllers", interface, "Ports", port)
        fc = row.get("kind") == "fc"
        up = row.get("state", "up") == "up"
        return resource(
            "Port.v1_10_0",
            where,
            f"Port {row['address']}",
            PortId=str(row["address"]),
            PortProtocol="FC" if fc else "iSCSI",
            PortType="BidirectionalPort",
            LinkStatus="LinkUp" if up else "LinkDown",
            CurrentSpeedGbps=_speed_gbps(row) if fc else None,
            FibreChannel=_fibre_channel(row) if fc else None,
            Metrics=link(*where, "Metrics"),
            Status=status(up=up),
            Oem=oem(**_kept(row, "iscsi_port", "iqn", "distance_m", "needed_credits", "reserved_credits")),
        )

    def metrics(self, array: str, interface: str, port: str) -> Resource | None:
        """``…/Ports/{port}/Metrics``, with the Fibre Channel part for an FC port."""
        row = self._port(array, interface, port)
        if row is None:
            return None
        where = ("Storage", array, "Controllers", interface, "Ports", port, "Metrics")
        fc = row.get("kind") == "fc"
        return resource(
            "PortMetrics.v1_3_0",
            where,
            f"Metrics of port {row['address']}",
            TXBytes=row.get("tx_payload_bytes"),
            RXBytes=row.get("rx_payload_bytes"),
            FibreChannel=_fc_metrics(row) if fc else None,
            Networking=_networking(row) if fc else None,
            Oem=oem(**_kept(row, *_OEM_COUNTERS)) if fc else None,
        )

    def _of(self, array: str, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if identifier(str(row["array"])) == array]

    def _interfaces(self, array: str) -> list[str]:
        rows = self._of(array, self._pools) + self._of(array, self._ports)
        return list(dict.fromkeys(_interface(row) for row in rows))

    def _ports_of(self, array: str, interface: str) -> list[Row]:
        return [row for row in self._of(array, self._ports) if _interface(row) == interface]

    def _port(self, array: str, interface: str, port: str) -> Row | None:
        rows = self._ports_of(array, interface)
        return next((row for row in rows if identifier(str(row["address"])) == port), None)


_OEM_COUNTERS = (
    *("credit_zero_time_ps", "tx_wait_2500ns_ticks", "lost_credits", "recovered_credits", "link_resets"),
    *("bb_credit", "rx_bb_credit", "tx_remaining_credits", "rx_remaining_credits", "discards"),
)


def port_path(row: Row) -> tuple[str, ...]:
    """Where the port of a row of ``get ports`` is."""
    array, address = identifier(str(row["array"])), identifier(str(row["address"]))
    return ("Storage", array, "Controllers", _interface(row), "Ports", address)


def _interface(row: Row) -> str:
    return identifier(str(row.get("interface") or _DEFAULT_INTERFACE))


def _fibre_channel(row: Row) -> dict[str, Any]:
    peer = row.get("peer_wwpn")
    return {
        "AssociatedWorldWideNames": [str(row.get("wwpn") or row["address"])],
        "NumberDiscoveredRemotePorts": 0 if peer is None else 1,
        "PortConnectionType": "NPort",
    }


def _fc_metrics(row: Row) -> dict[str, Any]:
    """``FibreChannelPortMetrics``: the counters that there are (FC-FS words in Redfish's)."""
    named = {
        "InvalidCRCs": row.get("corrupted_frames"),
        "RXBBCreditZero": row.get("rx_credit_zero_transitions"),
        "TXBBCreditZero": row.get("credit_zero_transitions"),
        "TXBBCredits": row.get("bb_credit"),
    }
    waited_ps = row.get("credit_zero_time_ps")
    if type(waited_ps) is int:
        named["TXBBCreditZeroDurationMilliseconds"] = waited_ps // _PS_PER_MS
    return {name: value for name, value in named.items() if value is not None}


def _networking(row: Row) -> dict[str, Any]:
    named = {
        "RXFrames": row.get("rx_frames"),
        "TXFrames": row.get("tx_frames"),
        "TXDiscards": row.get("discards"),
    }
    return {name: value for name, value in named.items() if value is not None}


def _speed_gbps(row: Row) -> float | None:
    """The line rate in Gbit/s."""
    try:
        speed = parse_speed(str(row.get("speed")))
        return speed.symbols_per_second * speed.bits_per_symbol / 1e9
    except (FibreChannelError, ValueError):
        return None


def _kept(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names if row.get(name) is not None}
