# SPDX-License-Identifier: Apache-2.0
"""Discovery sessions: which targets there are and where (SendTargets, RFC 7143 appendix C)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from iscsi_target.errors import ConnectionLost
from iscsi_target.initiator import DEFAULT_INITIATOR_IQN, Initiator
from iscsi_target.initiator_link import ConnectionFactory
from iscsi_target.session.chap import Chap
from iscsi_target.wire.opcodes import ISCSI_PORT
from iscsi_target.wire.target_address import TargetAddress, parse_target_address

__all__ = ["DiscoveredTarget", "discover", "discover_at"]


@dataclass(frozen=True, slots=True)
class DiscoveredTarget:
    """One target of a SendTargets answer; `addresses` as ``host:port,portal group tag``."""

    name: str
    addresses: tuple[str, ...]

    @property
    def portals(self) -> tuple[TargetAddress, ...]:
        """The addresses, parsed. Raises NegotiationError for one that cannot be read."""
        return tuple(parse_target_address(address) for address in self.addresses)


def targets_of(pairs: Iterable[tuple[str, str]]) -> list[DiscoveredTarget]:
    """The targets in the answer to SendTargets."""
    found: list[tuple[str, list[str]]] = []
    for key, value in pairs:
        if key == "TargetName":
            found.append((value, []))
        elif key == "TargetAddress" and found:
            found[-1][1].append(value)
    return [DiscoveredTarget(name, tuple(addresses)) for name, addresses in found]


async def discover(
    host: str,
    port: int = ISCSI_PORT,
    *,
    initiator_iqn: str = DEFAULT_INITIATOR_IQN,
    chap: Chap | None = None,
    connect: ConnectionFactory | None = None,
    timeout_s: float = 10.0,
) -> list[DiscoveredTarget]:
    """A discovery session: SendTargets=All. Raises as `Initiator.login`."""
    session = await Initiator.login(
        host, port, "", initiator_iqn=initiator_iqn, chap=chap, connect=connect, timeout_s=timeout_s
    )
    try:
        return targets_of(await session.text(("SendTargets", "All")))
    finally:
        await session.logout()


async def discover_at(
    portals: Sequence[tuple[str, int]],
    *,
    initiator_iqn: str = DEFAULT_INITIATOR_IQN,
    chap: Chap | None = None,
    timeout_s: float = 10.0,
) -> list[DiscoveredTarget]:
    """Ask several portals one after the other and put the answers together, each address once.

    A portal that cannot be reached is left out; ConnectionLost when that is true of all of them. Raises otherwise as
    `Initiator.login`.
    """
    found: dict[str, dict[str, None]] = {}
    unreachable: list[str] = []
    for host, port in portals:
        try:
            answer = await discover(host, port, initiator_iqn=initiator_iqn, chap=chap, timeout_s=timeout_s)
        except (ConnectionLost, OSError) as error:
            unreachable.append(f"{host}:{port}: {error}")
            continue
        for target in answer:
            found.setdefault(target.name, {}).update(dict.fromkeys(target.addresses))
    if len(unreachable) == len(portals):
        raise ConnectionLost("; ".join(unreachable) or "no portals were given")
    return [DiscoveredTarget(name, tuple(addresses)) for name, addresses in found.items()]
