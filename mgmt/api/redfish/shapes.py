"""What every Redfish resource has (DSP0266 sections 9 and 10): identifiers, links, collections, status, errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

ROOT = "/redfish/v1"
Resource = dict[str, Any]


def identifier(text: str) -> str:
    """``text`` as an Id: what a path cannot hold as it is becomes ``-`` (a WWPN's and an IPv6 address's colons)."""
    return "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in text)


def path(*parts: str) -> str:
    """The path of a resource below the root."""
    return "/".join((ROOT, *(quote(part, safe="._-") for part in parts))) if parts else f"{ROOT}/"


def link(*parts: str) -> dict[str, str]:
    """A reference to a resource."""
    return {"@odata.id": path(*parts)}


def resource(kind: str, where: tuple[str, ...], name: str, **members: Any) -> Resource:
    """A resource of ``kind`` (``Fabric.v1_3_0``) at ``where``."""
    schema = kind.partition(".")[0]
    return {
        "@odata.type": f"#{kind}.{schema}",
        "@odata.id": path(*where),
        "Id": where[-1] if where else "RootService",
        "Name": name,
        **{member: value for member, value in members.items() if value is not None},
    }


def collection(schema: str, where: tuple[str, ...], name: str, members: Iterable[str]) -> Resource:
    """A collection whose members are right below it."""
    links = [link(*where, member) for member in members]
    return {
        "@odata.type": f"#{schema}Collection.{schema}Collection",
        "@odata.id": path(*where),
        "Name": name,
        "Members@odata.count": len(links),
        "Members": links,
    }


def status(*, up: bool, healthy: bool = True) -> dict[str, str]:
    """``Status``: what does not answer is absent, what is short is a warning."""
    if not up:
        return {"State": "UnavailableOffline", "Health": "Critical"}
    return {"State": "Enabled", "Health": "OK" if healthy else "Warning"}


def oem(**members: Any) -> dict[str, Any]:
    """``Oem``: what the standard has no property for."""
    return {"Sancredit": {"@odata.type": "#Sancredit.v1_0_0.Sancredit", **members}}


def error(message: str, code: str = "Base.1.8.GeneralError") -> dict[str, Any]:
    """An error answer (DSP0266 section 8.6)."""
    extended = {
        "@odata.type": "#Message.v1_1_1.Message",
        "MessageId": code,
        "Message": message,
        "MessageSeverity": "Critical",
        "Resolution": "Begin at /redfish/v1/ and follow the links.",
    }
    return {"error": {"code": code, "message": message, "@Message.ExtendedInfo": [extended]}}
