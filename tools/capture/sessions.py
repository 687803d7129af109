"""Who talks to whom: names and parameters out of logins (RFC 7143 sections 6, 13), else addresses."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.capture.stream_kernel import Direction

_BHS_BYTES = 48
_KEY_LIMIT = 256
_TEXT_LIMIT_BYTES = 64 * 1024
_LOGIN_REQUEST = 0x03
#: Keys whose result is agreed by both; each side's own value of the others is what it declared.
_NUMBERS = {
    "MaxBurstLength": ("max_burst", 262_144),
    "FirstBurstLength": ("first_burst", 65_536),
    "MaxOutstandingR2T": ("outstanding_r2t", 1),
}
_BOOLEANS = {
    "ImmediateData": ("immediate", True, all),
    "InitialR2T": ("initial_r2t", True, any),
    "DataPDUInOrder": ("data_in_order", True, any),
}


@dataclass(slots=True)
class Login:
    """One connection's login: what each side said, and how it ended.

    ``status`` is class and detail as one number; None: the login was not captured to its end.
    """

    initiator: dict[str, str] = field(default_factory=dict)
    target: dict[str, str] = field(default_factory=dict)
    isid: str = ""
    tsih: int = 0
    cid: int = 0
    status: int | None = None
    packet: int = 0
    rest: list[bytes] = field(default_factory=lambda: [b"", b""])

    def value(self, key: str) -> str | None:
        """What was agreed: the answer of the target, else what the initiator said alone."""
        found = self.target.get(key, self.initiator.get(key))
        return None if found in (None, "Irrelevant", "NotUnderstood", "Reject") else found


class Unwatched:
    """A connection for :meth:`Sessions.login` where nobody asks afterwards what was agreed on it."""

    def __init__(self, flow: int) -> None:
        self.flow = flow


class Sessions:
    """Listens to the login PDUs of a capture; see :class:`~tools.capture.exchange_kernel.Matcher`."""

    def __init__(self) -> None:
        self.logins: dict[int, Login] = {}
        self._by_session: dict[tuple[str, str, str, int], Any] = {}

    def login(self, connection: Any, opcode: int, packet: int, pdu: bytes) -> None:
        """One login PDU; with the last of them the connection's parameters are known."""
        login = self.logins.setdefault(connection.flow, Login(packet=packet))
        request = opcode == _LOGIN_REQUEST
        side = login.initiator if request else login.target
        lengths = int.from_bytes(pdu[5:8], "big")
        text = login.rest[request] + pdu[_BHS_BYTES : _BHS_BYTES + lengths]
        more = pdu[1] & 0x40
        login.rest[request] = text[-_TEXT_LIMIT_BYTES:] if more else b""
        if request:
            login.isid, login.cid = pdu[8:14].hex(), int.from_bytes(pdu[20:22], "big")
        if more:
            return
        for item in text.split(b"\0"):
            key, equals, value = item.partition(b"=")
            if equals and len(side) < _KEY_LIMIT:
                side[_readable(key)] = _readable(value)
        if request:
            return
        login.tsih = int.from_bytes(pdu[14:16], "big")
        login.status = int.from_bytes(pdu[36:38], "big")
        if login.status == 0 and pdu[1] & 0x83 == 0x83:
            self._agree(connection, login)

    def _agree(self, connection: Any, login: Login) -> None:
        """Tell the checks what holds on this connection from now on."""
        for key, (name, default) in _NUMBERS.items():
            values = [_number(side.get(key)) for side in (login.initiator, login.target)]
            said = [value for value in values if value is not None]
            setattr(connection, name, min(said) if said else default)
        for key, (name, standard, together) in _BOOLEANS.items():
            answers = [side[key] == "Yes" for side in (login.initiator, login.target) if key in side]
            setattr(connection, name, int(together(answers) if answers else standard))
        connection.initiator_segment = _number(login.initiator.get("MaxRecvDataSegmentLength")) or 8192
        connection.target_segment = _number(login.target.get("MaxRecvDataSegmentLength")) or 8192
        connection.agreed = 1
        name = login.initiator.get("InitiatorName", "")
        session = (name, login.isid, login.initiator.get("TargetName", ""), login.tsih)
        first = self._by_session.setdefault(session, connection)
        if first is not connection:  # CmdSN runs over all connections of the session
            connection.shared = first.shared = 1

    def names(self, flow: int, directions: tuple[Direction, Direction]) -> tuple[str, str]:
        """Initiator and target of an iSCSI connection: the names of the login, else the addresses."""
        login = self.logins.get(flow)
        if login is not None and "InitiatorName" in login.initiator:
            target = login.initiator.get("TargetName") or (
                "discovery" if login.initiator.get("SessionType") == "Discovery" else ""
            )
            return login.initiator["InitiatorName"], target or endpoint(initiator_side(directions).peer)
        side = initiator_side(directions)
        return endpoint(side), endpoint(side.peer)


def initiator_side(directions: tuple[Direction, Direction]) -> Direction:
    """The direction from the initiator: what it sent tells, else who opened the connection."""
    first, second = directions
    if first.role or second.role:
        return first if first.role == 1 or second.role == 2 else second
    return second if second.opened else first


def endpoint(direction: Direction) -> str:
    """``192.0.2.1:3260`` of the sender of a direction; ``0a.01.00`` of a Fibre Channel address."""
    key = direction.key
    if key[:1] == b"\xfc" and len(key) == 9:
        return ".".join(f"{octet:02x}" for octet in key[1:4])
    if len(key) == 12:
        return f"{socket.inet_ntop(socket.AF_INET, key[:4])}:{int.from_bytes(key[8:10], 'big')}"
    if len(key) == 36:
        return f"[{socket.inet_ntop(socket.AF_INET6, key[:16])}]:{int.from_bytes(key[32:34], 'big')}"
    return "?"


def vsan_of(direction: Direction) -> int:
    """The virtual fabric of a pair of Fibre Channel addresses; 0: none was told."""
    fibre = direction.key[:1] == b"\xfc" and len(direction.key) == 9
    return int.from_bytes(direction.key[7:9], "big") if fibre else 0


def lun_text(field: bytes) -> str:
    """A LUN as people say it: a number for the simple forms, else its eight bytes in hex (SAM-5 4.7)."""
    if field[2:] == bytes(6):
        if field[0] == 0:
            return str(field[1])
        if field[0] & 0xC0 == 0x40:
            return str((field[0] & 0x3F) << 8 | field[1])
    return f"0x{field.hex()}"


def secrets_left_out(keys: Mapping[str, str]) -> dict[str, str]:
    """Login keys for a report: CHAP responses are left out."""
    return {key: "…" if key in ("CHAP_R", "CHAP_C") else value for key, value in keys.items()}


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        return None


def _readable(octets: bytes) -> str:
    text = octets[:8192].decode(errors="replace")
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
