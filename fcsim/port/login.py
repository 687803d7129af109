"""What a login grants each side of a link (FC-LS, common service parameters; FC-SW, ELP).

Who sends a login says with BB_Credit how many frames the *other* side may have outstanding: each side transmits
with the credit that the other granted, so the two directions may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from fcsim.errors import PeerViolation
from fcsim.port.credit import BB_CREDIT_LIMIT
from fcsim.port.recovery import BB_SC_N_LIMIT, negotiated

DATA_FIELD_MIN_BYTES = 256
DATA_FIELD_MAX_BYTES = 2112


class Exchange(Enum):
    """Which login it is."""

    FLOGI = "fabric login: N_Port with F_Port"
    PLOGI = "port login"
    ELP = "exchange link parameters: E_Port with E_Port"


@dataclass(frozen=True, slots=True)
class Offer:
    """One side's parameters. ``virtual_channels`` (ELP in VC_RDY mode): credits by virtual channel."""

    bb_credit: int
    receive_data_field_bytes: int = DATA_FIELD_MAX_BYTES
    bb_sc_n: int = 0
    alternate: bool = False
    ee_credit: int = 0
    virtual_channels: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one side may do after the login: credits by virtual channel, ``None`` for a link without them."""

    transmit: Mapping[int | None, int]
    receive: Mapping[int | None, int]
    bb_sc_n: int = 0
    alternate: bool = False
    max_data_field_bytes: int = DATA_FIELD_MAX_BYTES
    ee_credit: int = 0
    """What this side may have unacknowledged end to end, classes 2 and F."""


def checked(offer: Offer) -> Offer:
    """An offer that came over the wire. Raises PeerViolation for one that the standard does not allow."""
    size = offer.receive_data_field_bytes
    if not DATA_FIELD_MIN_BYTES <= size <= DATA_FIELD_MAX_BYTES or size % 4:
        raise PeerViolation(
            f"a receive data field of {size} bytes is not a multiple of 4 from {DATA_FIELD_MIN_BYTES} "
            f"to {DATA_FIELD_MAX_BYTES}"
        )
    for name, credit in (("BB_Credit", offer.bb_credit), ("EE_Credit", offer.ee_credit)):
        if not 0 <= credit <= BB_CREDIT_LIMIT:
            raise PeerViolation(f"{name} {credit} is not 0 to {BB_CREDIT_LIMIT}")
    if not 0 <= offer.bb_sc_n <= BB_SC_N_LIMIT:
        raise PeerViolation(f"BB_SC_N {offer.bb_sc_n} is not 0 to {BB_SC_N_LIMIT}")
    if not offer.bb_credit and not offer.alternate and not offer.virtual_channels:
        raise PeerViolation("BB_Credit 0 without alternate BB_Credit management: nothing could ever be sent")
    for vc, credit in offer.virtual_channels.items():
        if not 0 <= vc <= 255 or not 0 <= credit <= BB_CREDIT_LIMIT:
            raise PeerViolation(f"{credit} credits for virtual channel {vc}")
    return offer


def grant(mine: Offer, peers: Offer) -> Grant:
    """The result of a FLOGI, an ELP, or a PLOGI between directly connected N_Ports.

    Virtual channels are used when both sides offer them, and only those that both have. Raises PeerViolation for
    an offer that the standard does not allow.
    """
    checked(peers)
    shared = sorted(set(mine.virtual_channels) & set(peers.virtual_channels))
    transmit: dict[int | None, int]
    receive: dict[int | None, int]
    if shared:
        transmit = {vc: peers.virtual_channels[vc] for vc in shared}
        receive = {vc: mine.virtual_channels[vc] for vc in shared}
    else:
        transmit, receive = {None: peers.bb_credit}, {None: mine.bb_credit}
    return Grant(
        transmit,
        receive,
        # Recovery counts R_RDYs of the whole link: FOS has it off where virtual channels are in use.
        0 if shared else negotiated(mine.bb_sc_n, peers.bb_sc_n),
        mine.alternate and peers.alternate and not shared,
        min(mine.receive_data_field_bytes, peers.receive_data_field_bytes),
        peers.ee_credit,
    )


def counts_for_the_link(exchange: Exchange, *, directly_connected: bool) -> bool:
    """Whether this login's BB_Credit is the link's: a PLOGI's is only where no fabric lies between."""
    return exchange is not Exchange.PLOGI or directly_connected
