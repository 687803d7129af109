"""Fabrics: the ports of all arrays as endpoints, the pairs of table 108 as connections between two of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from mgmt.api.redfish.shapes import Resource, collection, identifier, link, oem, resource, status
from mgmt.api.redfish.storage import port_path

Row = Mapping[str, Any]
_WWPN = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){7}|[0-9a-f]{16}", re.IGNORECASE)
#: The fabrics: Id → (name, FabricType, protocol of an endpoint).
_FABRICS: Mapping[str, tuple[str, str, str]] = {
    "FC": ("Fibre Channel", "FC", "FCP"),
    "IP": ("iSCSI over TCP", "iSCSI", "iSCSI"),
}


def fabric_of(address: str) -> str:
    """``FC`` for a WWPN, else ``IP``. A WWPN is looked for first: with its colons it could be an IPv6 address."""
    return "FC" if _WWPN.fullmatch(address) else "IP"


class Fabrics:
    """The resources below ``/Fabrics``, from the tables of ports, channels and pairs."""

    def __init__(self, ports: Sequence[Row], channels: Sequence[Row], pairs: Sequence[Row]) -> None:
        self._ports = {str(row["address"]): row for row in ports}
        self._channels = channels
        self._pairs = {_key(row): row for row in pairs}

    def all(self) -> Resource:
        """``/Fabrics``."""
        return collection("Fabric", ("Fabrics",), "Fabrics", _FABRICS)

    def fabric(self, fabric: str) -> Resource | None:
        """``/Fabrics/{fabric}``."""
        if fabric not in _FABRICS:
            return None
        name, kind, _ = _FABRICS[fabric]
        where = ("Fabrics", fabric)
        return resource(
            "Fabric.v1_3_0",
            where,
            name,
            FabricType=kind,
            Status=status(up=True),
            Endpoints=link(*where, "Endpoints"),
            Connections=link(*where, "Connections"),
        )

    def endpoints(self, fabric: str) -> Resource | None:
        """``…/Endpoints``."""
        if fabric not in _FABRICS:
            return None
        found = [identifier(address) for address in self._addresses(fabric)]
        return collection("Endpoint", ("Fabrics", fabric, "Endpoints"), "Ports", found)

    def endpoint(self, fabric: str, endpoint: str) -> Resource | None:
        """``…/Endpoints/{endpoint}``: a port of an array, or one that is only known as the other end of a channel."""
        address = next((one for one in self._addresses(fabric) if identifier(one) == endpoint), None)
        if address is None:
            return None
        row = self._ports.get(address)
        transport: list[dict[str, Any]] | None = None
        if fabric == "IP":
            version = f"IPv{ip_address(address).version}Address"
            transport = [{"TransportProtocol": "iSCSI", version: {"Address": address}}]
            if row is not None and type(row.get("iscsi_port")) is int:
                transport[0]["Port"] = row["iscsi_port"]
        name: dict[str, Any] = {"DurableNameFormat": "NAA", "DurableName": address.replace(":", "").upper()}
        if fabric == "IP":
            known = row is not None and row.get("iqn")
            name = {"DurableNameFormat": "iQN", "DurableName": known} if known else {}
        entity: dict[str, Any] = {"EntityType": "NetworkController", "EntityRole": "Both"}
        return resource(
            "Endpoint.v1_8_0",
            ("Fabrics", fabric, "Endpoints", endpoint),
            f"Port {address}",
            EndpointProtocol=_FABRICS[fabric][2],
            Identifiers=[name] if name else [],
            ConnectedEntities=[entity | ({"Identifiers": [name]} if name else {})],
            IPTransportDetails=transport,
            Status=status(up=row is not None and row.get("state", "up") == "up"),
            Links={
                "ConnectedPorts": [] if row is None else [link(*port_path(row))],
                "Connections": [
                    link("Fabrics", fabric, "Connections", _id(channel))
                    for channel in self._of(fabric)
                    if address in (channel["local_port"], channel["remote_port"])
                ],
            },
            Oem=None if row is None else oem(array=row["array"]),
        )

    def connections(self, fabric: str) -> Resource | None:
        """``…/Connections``."""
        if fabric not in _FABRICS:
            return None
        found = [_id(row) for row in self._of(fabric)]
        return collection("Connection", ("Fabrics", fabric, "Connections"), "Port pairs", found)

    def connection(self, fabric: str, connection: str) -> Resource | None:
        """``…/Connections/{connection}``: one row of table 108, with what is recommended and reserved for it."""
        row = next((one for one in self._of(fabric) if _id(one) == connection), None)
        if row is None:
            return None
        pair = self._pairs.get(_key(row), {})
        recommended, reserved = pair.get("recommended_bytes"), pair.get("reserved_bytes")
        short = recommended is not None and reserved is not None and reserved < recommended

        def end(side: str) -> list[dict[str, str]]:
            return [link("Fabrics", fabric, "Endpoints", identifier(str(row[side])))]

        return resource(
            "Connection.v1_3_0",
            ("Fabrics", fabric, "Connections", connection),
            f"{row['local_port']} to {row['remote_port']}",
            ConnectionType="Storage",
            Status=status(up=True, healthy=not (row.get("stale") or short)),
            Links={"InitiatorEndpoints": end("local_port"), "TargetEndpoints": end("remote_port")},
            Oem=oem(
                Channel={key: value for key, value in row.items() if not key.endswith("_port")},
                Reservation={"recommended_bytes": recommended, "reserved_bytes": reserved, "short": short},
            ),
        )

    def _of(self, fabric: str) -> list[Row]:
        return [row for row in self._channels if fabric_of(str(row["local_port"])) == fabric]

    def _addresses(self, fabric: str) -> list[str]:
        """Every port that an array has or that a channel ends at."""
        ends = (str(row[side]) for row in self._channels for side in ("local_port", "remote_port"))
        return [address for address in dict.fromkeys((*self._ports, *ends)) if fabric_of(address) == fabric]


def _key(row: Row) -> tuple[Any, ...]:
    return row["local_port"], row["remote_port"], row.get("remote_port_number")


def _id(row: Row) -> str:
    return "_".join(identifier(str(part)) for part in _key(row) if part is not None)
