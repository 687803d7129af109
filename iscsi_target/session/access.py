# SPDX-License-Identifier: Apache-2.0
"""Who may log in to a target, and which of its LUNs it then sees: one frozen description (RFC 7143 section 9.2.2;
LUN masking and mapping, SAM-5 4.6.4). Sans-IO.

A rule says who in up to three respects: the initiator's iSCSI name, the address it comes from, and the name it has
proven by CHAP. All that a rule gives have to fit; the first rule that fits counts. Who fits none is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from iscsi_target.wire.names import name_problem

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """One rule; what is left empty fits everybody."""

    initiators: frozenset[str] = frozenset()
    """iSCSI names."""
    networks: tuple[Network, ...] = ()
    """Addresses, as networks in CIDR form."""
    chap_names: frozenset[str] = frozenset()
    """Names proven by CHAP (CHAP_N)."""
    luns: Mapping[int, int] | None = None
    """What is seen: LUN as the initiator counts to the target's own LUN. None: every LUN under its own number."""
    read_only: bool = False
    """All that is seen may only be read."""
    read_only_luns: frozenset[int] = frozenset()
    """LUNs, as the initiator counts, that may only be read."""

    def __post_init__(self) -> None:
        for name in self.initiators:
            problem = name_problem(name)
            if problem is not None:
                raise ValueError(f"{name!r} is no iSCSI name: {problem}")
        if self.luns is not None and not self.luns:
            raise ValueError("a rule that shows no LUN at all lets nobody do anything")
        if self.luns is not None and not self.read_only_luns <= set(self.luns):
            raise ValueError("a LUN that may only be read is not among those that are seen")

    @property
    def masks(self) -> bool:
        """Whether the rule shows less than everything."""
        return self.luns is not None or self.read_only or bool(self.read_only_luns)

    def may_fit(self, initiator_name: str, address: str) -> bool:
        """Whether the rule can fit: what is known before authentication does not speak against it."""
        if self.initiators and initiator_name not in self.initiators:
            return False
        return not self.networks or _within(address, self.networks)

    def fits(self, initiator_name: str, address: str, chap_name: str) -> bool:
        """Whether the rule fits; `chap_name` is empty for who has proven nothing."""
        return self.may_fit(initiator_name, address) and (not self.chap_names or chap_name in self.chap_names)


@dataclass(frozen=True, slots=True)
class AccessList:
    """The rules of one target, the first that fits counts.

    `hidden`: who fits none is told "not found" (status 0203h) instead of "not authorized" (0202h), so that a login
    does not tell that the target is there.
    """

    rules: tuple[AccessRule, ...]
    hidden: bool = False

    def may_fit(self, initiator_name: str, address: str) -> bool:
        """Whether some rule can fit once the initiator has proven itself."""
        return any(rule.may_fit(initiator_name, address) for rule in self.rules)

    def find(self, initiator_name: str, address: str, chap_name: str) -> AccessRule | None:
        """The rule that counts."""
        return next((rule for rule in self.rules if rule.fits(initiator_name, address, chap_name)), None)

    def shows_to(self, initiator_name: str, address: str, chap_name: str) -> bool:
        """Whether SendTargets names the target. In a discovery session without authentication a rule that wants CHAP
        cannot be decided: the target is shown then, unless it is hidden."""
        if self.find(initiator_name, address, chap_name) is not None:
            return True
        return not self.hidden and not chap_name and self.may_fit(initiator_name, address)

    def view_of(self, rule: AccessRule) -> str:
        """The name under which :func:`iscsi_target.masking.lun_maps` has the LUNs of a rule that masks. It is no iSCSI
        name, so no initiator can claim it."""
        return f"access rule {self.rules.index(rule)}"


def address_of(peer: str) -> str:
    """The address in the ``host:port`` of a peer."""
    return peer.rpartition(":")[0].removeprefix("[").removesuffix("]").partition("%")[0]


def _within(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is not None:
        known = known.ipv4_mapped
    return any(known in network for network in networks)
