"""What a form carries: the texts as they were typed, and what is wrong beside each field, in the reader's language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from credits.errors import InvalidRequest
from credits.quantities import parse_delay, parse_rate, parse_size
from credits.targets import (
    BUFFER_ID_LIMIT,
    NAME_LIMIT,
    PORT_NUMBER_LIMIT,
    Target,
    TargetKind,
    application,
    connection,
    new_connection,
    port_pair,
    port_pair_number,
    volume_group_pair,
    volume_pair,
)
from mgmt.station.channels import COUNT_LIMIT
from mgmt.station.context import canonical_pair, canonical_port
from mgmt.web.language import Language

Pair = tuple[str, str]
#: Kinds that name no ports of their own (paragraph 102) → how many names they have.
OPEN_KINDS: Mapping[TargetKind, int] = {
    TargetKind.APPLICATION: 1,
    TargetKind.VOLUME_PAIR: 2,
    TargetKind.VOLUME_GROUP_PAIR: 2,
}
_TEXT_LIMIT = 300


@dataclass(slots=True)
class Form:
    """One submission. Reading a field gives its value, or ``None`` with the error noted beside it."""

    values: Mapping[str, str]
    language: Language
    errors: dict[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """As typed, without the space around it."""
        return self.values.get(name, "").strip()[:_TEXT_LIMIT]

    def lines(self, name: str, limit: int) -> list[str]:
        """What stands in each line of an area of text, without the empty ones; of ``limit`` lines at most."""
        text = self.values.get(name, "")[: limit * _TEXT_LIMIT]
        return [line.strip()[:_TEXT_LIMIT] for line in text.splitlines() if line.strip()][:limit]

    def wrong(self, name: str, message: str) -> None:
        """Note what is wrong; the first thing said of a field stays."""
        self.errors.setdefault(name, message)

    def whole(self, name: str, low: int, high: int, *, needed: bool = True) -> int | None:
        """A whole number from ``low`` to ``high``."""
        text = self.text(name)
        if not text and not needed:
            return None
        if text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high:
            return int(text)
        self.wrong(name, self.language("Enter a whole number from %(low)s to %(high)s.", low=low, high=high))
        return None

    def quantity(self, name: str, read: Callable[[str], int], message: str) -> int | None:
        """A number with a unit, above 0; nothing where nothing was typed."""
        text = self.text(name)
        if not text:
            return None
        try:
            number = read(text)
        except ValueError:
            number = 0
        if number > 0:
            return number
        self.wrong(name, message)
        return None

    def size(self, name: str) -> int | None:
        """A size in bytes, above 0 (step 809)."""
        message = self.language("Enter a size above 0, such as 2MiB, 350kB or 2100000.")
        if not self.text(name):
            self.wrong(name, message)
        return self.quantity(name, parse_size, message)

    def any_size(self, name: str) -> int | None:
        """A size in bytes, above 0; nothing where nothing was typed, or 0."""
        if self.text(name) == "0":
            return None
        return self.quantity(name, parse_size, self.language("Enter a size such as 2MiB, or leave it empty."))

    def rate(self, name: str) -> int | None:
        """A rate in bit/s."""
        return self.quantity(name, parse_rate, self.language("Enter a rate such as 100Mbit or 1Gbit."))

    def delay(self, name: str) -> int | None:
        """A delay in nanoseconds."""
        return self.quantity(name, parse_delay, self.language("Enter a time such as 80ms or 1s."))

    def pair(self) -> Pair | None:
        """The fields 602 and 603 (1402, 1403) in their usual spelling: IP addresses, or WWPNs."""
        read = [self._port(name) for name in ("local_port", "remote_port")]
        local, remote = read
        if local is None or remote is None:
            return None
        try:
            return canonical_pair(local, remote)
        except InvalidRequest:
            self.wrong(
                "remote_port",
                self.language("The two ports of a pair differ.")
                if local == remote
                else self.language(
                    "The two ports are of one sort: both IPv4 addresses, both IPv6 addresses, or both WWPNs."
                ),
            )
        return None

    def _port(self, name: str) -> str | None:
        text = self.text(name)
        try:
            return canonical_port(text)
        except InvalidRequest:
            said = self.language(
                "Enter an IP address such as 10.0.0.1, or a WWPN such as 50:06:01:60:3b:a0:11:22."
            )
            if text:
                said = self.language("“%(text)s” is no port.", text=text) + " " + said
            self.wrong(name, said)
        return None

    def counts(self) -> tuple[int | None, int | None]:
        """The fields 604 and 605 (1405, 1406)."""
        return (
            self.whole("sessions", 1, COUNT_LIMIT),
            self.whole("connections_per_session", 1, COUNT_LIMIT),
        )

    def target(self, kind: TargetKind) -> tuple[Target, Pair] | None:
        """The reservation target of ``kind``, and the port pair that it goes over."""
        pair = self.pair()
        number = None
        if kind is TargetKind.PORT_PAIR_NUMBER:
            number = self.whole("remote_port_number", 1, PORT_NUMBER_LIMIT)
        names = [self._name(name) for name in ("name", "remote_name")[: OPEN_KINDS.get(kind, 0)]]
        if self.errors or pair is None:
            return None
        return _target(kind, pair, number, [name for name in names if name is not None]), pair

    def _name(self, name: str) -> str | None:
        text = self.text(name)
        if 1 <= len(text) <= NAME_LIMIT // 2 and text.isprintable() and "," not in text:
            return text
        self.wrong(
            name,
            self.language(
                "Enter a name of at most %(limit)s characters, without commas.", limit=NAME_LIMIT // 2
            ),
        )
        return None


def _target(kind: TargetKind, pair: Pair, number: int | None, names: list[str]) -> Target:
    match kind:
        case TargetKind.PORT_PAIR:
            return port_pair(*pair)
        case TargetKind.PORT_PAIR_NUMBER:
            return port_pair_number(*pair, number or 0)
        case TargetKind.CONNECTION:
            return new_connection(*pair)
        case TargetKind.APPLICATION:
            return application(names[0])
        case TargetKind.VOLUME_PAIR:
            return volume_pair(names[0], names[1])
        case TargetKind.VOLUME_GROUP_PAIR:
            return volume_group_pair(names[0], names[1])


def target_fields(target: Target, via: Pair | None = None) -> dict[str, Any]:
    """The fields by which a page's URL names ``target``; :func:`named_target` reads them."""
    local_port, remote_port = via or (target.local_port, target.remote_port)
    fields = {
        "kind": target.kind.value,
        "local_port": local_port,
        "remote_port": remote_port,
        "remote_port_number": target.remote_port_number,
        "buffer_id": target.buffer_id,
        "name": target.name,
    }
    return {name: value for name, value in fields.items() if value is not None}


def named_target(form: Form) -> tuple[Target, Pair | None] | None:
    """The target, and the pair it goes over where the fields have one; ``None`` where they make none."""
    try:
        kind = TargetKind(form.text("kind"))
    except ValueError:
        return None
    if kind in OPEN_KINDS:
        name = form.text("name")
        pair = form.pair() if form.text("local_port") else None
        return (Target(kind, name=name), pair) if name and not form.errors else None
    if kind is TargetKind.CONNECTION and form.text("buffer_id"):
        number = form.whole("buffer_id", 0, BUFFER_ID_LIMIT)
        if number is None:
            return None
        if not form.text("local_port"):
            return connection(number), None
        pair = form.pair()
        return (Target(kind, *pair, buffer_id=number), pair) if pair else None
    return form.target(kind)
