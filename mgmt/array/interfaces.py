"""The communication interfaces of an array, and which of them a target, a claim or a hold belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from credits.allocation import Allocation
from credits.errors import Code, InvalidRequest
from credits.targets import Target, TargetKind
from mgmt.array.interface import CommunicationInterface


class Interfaces:
    """One or more interfaces. Implements what remote copy needs of them: M8, and the sizes of reservations."""

    def __init__(self, interfaces: Sequence[CommunicationInterface]) -> None:
        if not interfaces:
            raise ValueError("an array has an interface at least")
        self._all = tuple(interfaces)
        self._by_address = {interface.address: interface for interface in interfaces}

    def __iter__(self) -> Iterator[CommunicationInterface]:
        return iter(self._all)

    def with_port(self, address: str) -> CommunicationInterface:
        """The interface of a port. The only one has every port: the document's tables name what they like.

        Raises :class:`InvalidRequest`.
        """
        if len(self._all) == 1:
            return self._all[0]
        interface = self._by_address.get(address)
        if interface is None:
            raise InvalidRequest(
                Code.INVALID_TARGET,
                f"this array has no port {address!r:.80}; its ports: {', '.join(self._by_address)}",
            )
        return interface

    def serving(self, target: Target, via: str | None = None) -> CommunicationInterface:
        """The interface that ``target`` is reserved on, or is to be: by its local port, by ``via``, or by who has it.

        Raises :class:`InvalidRequest` where nothing of this says which.
        """
        if len(self._all) == 1:
            return self._all[0]
        port = target.local_port or via
        if port is not None:
            return self.with_port(port)
        found = self._holding(target)
        if len(found) != 1:
            raise InvalidRequest(
                Code.INVALID_TARGET,
                f"this array has several interfaces; name the port that {target} goes over: "
                f"{', '.join(self._by_address)}",
            )
        return found[0]

    def of_hold(self, hold: str) -> CommunicationInterface:
        """The interface that opened a hold; of one that nobody here opened, the one whose name it carries."""
        run = hold.rpartition("-")[0]
        for interface in self._all:
            if interface.control.run == run:
                return interface
        name = run.rpartition(".")[0]
        return next((interface for interface in self._all if interface.name == name), self._all[0])

    # -- what remote copy asks for ------------------------------------------------------------------------------

    def allocate(self, claims: Sequence[Target], units: int, *, holder: str, at_most: bool) -> Allocation:
        """M8, on the interface of the claims' local port."""
        return self._of_claims(claims).allocate(claims, units, holder=holder, at_most=at_most)

    def reserved_units(self, claims: Sequence[Target]) -> int:
        """Units of the reservation that would serve ``claims``; 0 when there is none."""
        return self._of_claims(claims).reserved_units(claims)

    def reserved_bytes(self, claims: Sequence[Target]) -> int:
        """The same in bytes."""
        return self._of_claims(claims).reserved_bytes(claims)

    def idle_buffer_id(self, local_port: str, remote_port: str) -> int | None:
        """A buffer ID of the port pair that nobody uses, or ``None``."""
        return self.with_port(local_port).idle_buffer_id(local_port, remote_port)

    # -- inside -------------------------------------------------------------------------------------------------

    def _of_claims(self, claims: Sequence[Target]) -> CommunicationInterface:
        if len(self._all) > 1:
            for claim in claims:
                if claim.local_port is not None:
                    return self.with_port(claim.local_port)
            for claim in claims:
                if len(found := self._holding(claim)) == 1:
                    return found[0]
        return self._all[0]

    def _holding(self, target: Target) -> list[CommunicationInterface]:
        if target.kind is TargetKind.CONNECTION:
            return [
                interface
                for interface in self._all
                if any(row.buffer_id == target.buffer_id for row in interface.pool.buffer_id_table())
            ]
        return [
            interface
            for interface in self._all
            if any(row.target == target for row in interface.pool.reservation_table())
        ]
