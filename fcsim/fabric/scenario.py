# SPDX-License-Identifier: Apache-2.0
"""What is simulated: switches, hosts, inter-switch links, flows and faults, as frozen values in base units.

:mod:`fcsim.fabric.scenario_file` reads them from TOML, :mod:`fcsim.fabric.plan` cables them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fcsim.speeds import MAX_PAYLOAD_BYTES, Speed

BROCADE_CREDITS = (4, 0, 5, 5, 5, 5, 1, 1)
"""VC0 class F, VC2 to 5 data, VC6 and 7 multicast: 26 buffers of an E_Port in L0 mode without QoS."""
DATA_CHANNELS = (2, 3, 4, 5)
"""Frames go over the one of these that their D_ID points to, where a link has them (FOS, medium priority)."""

DEFAULT_HOLD_NS = 220_000_000
"""FOS' edge hold time, medium."""
ISL_HOLD_NS = 500_000_000
DEFAULT_LOSS_NS = 2_000_000_000
"""Without credit for so long, a port resets the link (Brocade)."""


@dataclass(frozen=True, slots=True)
class Switch:
    """``latency_ns`` is added to every frame; ``buffers`` is the pool that the ports' receive credits come from,
    None: not limited."""

    name: str
    domain: int
    latency_ns: int = 0
    hold_ns: int | None = None
    buffers: int | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """An N_Port on a switch, or on another host (point to point).

    ``tx_credit`` is what the host may send (granted by the other side), ``rx_credit`` what it grants. It takes
    ``service_ns`` for each frame and ``drain_bps`` for their payload, one after the other; 0: no time at all.
    """

    name: str
    to: str
    speed: Speed
    distance_m: int
    tx_credit: int
    rx_credit: int
    service_ns: int = 0
    drain_bps: int = 0
    hold_ns: int | None = None
    bb_sc_n: int = 0


@dataclass(frozen=True, slots=True)
class Isl:
    """``count`` equal links between two switches. ``credits``: one number in R_RDY mode, else by virtual channel.

    A trunk is one link for routing: frames are spread over its members one by one, so it is simulated as a single
    link of the members' rate and credits together.
    """

    name: str
    between: tuple[str, str]
    speed: Speed
    distance_m: int
    credits: tuple[int, ...]
    count: int = 1
    trunk: bool = False
    bb_sc_n: int = 0
    hold_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """Frames from a host to another; ``to`` None: to any other, of which ``hot_share`` to ``hot``.

    ``rate_bps`` of payload, 0: as fast as credit lets it. ``frames`` None: without end. ``channel`` None: the one
    that the destination's address points to.
    """

    name: str
    source: str
    to: str | None = None
    hot: str | None = None
    hot_share: float = 0.0
    low_bytes: int = MAX_PAYLOAD_BYTES
    high_bytes: int = MAX_PAYLOAD_BYTES
    rate_bps: int = 0
    start_ns: int = 0
    frames: int | None = None
    channel: int | None = None


class FaultKind(Enum):
    """What goes wrong."""

    LOSE_FRAMES = "lose-frames"
    CORRUPT_FRAMES = "corrupt-frames"
    LOSE_R_RDYS = "lose-r-rdys"
    SLOW_RECEIVER = "slow-receiver"
    LINK_BOUNCE = "link-bounce"


@dataclass(frozen=True, slots=True)
class Fault:
    """``place`` is a link (both directions) or a port: then what that port sends, and the R_RDYs that answer it.

    Either each one is hit with ``probability``, or the first ``count`` from ``from_ns`` on are. A corrupted frame
    is one with a bad CRC: the receiver drops it, and its buffer is free, so the credit comes back. One whose delimiter
    is hit is no frame to the receiver: that is a lost one.
    """

    kind: FaultKind
    place: str
    from_ns: int = 0
    until_ns: int | None = None
    probability: float = 0.0
    count: int | None = None
    service_ns: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A command that is sent at its time, ``at_ns`` after the load's start, once the ``after`` arrivals that have the
    lowest ``rank`` have ended: 0, whatever is under way. It reads or writes so many bytes, or moves none. The target
    takes ``served_ns`` to its first answer (data, FCP_XFER_RDY or status) and ``finished_ns`` from the last byte of
    Data-Out to the status. Ranks are those of the arrivals of a load, from 0 without a gap; ``after`` never falls."""

    at_ns: int
    lun: bytes
    cdb: bytes
    read_bytes: int = 0
    write_bytes: int = 0
    served_ns: int = 0
    finished_ns: int = 0
    after: int = 0
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Scsi:
    """SCSI commands of an FCP initiator at ``source`` to a target at ``to``, ``depth`` at a time, until ``commands``
    have been sent (None: without end): READ(16), and WRITE(16) for what ``read_share`` leaves, of ``command_bytes`` at
    random places of the first ``capacity_bytes`` of logical unit 0. ``payload_bytes`` is the data field of the login,
    ``latency_ns`` what the target takes for each answer, ``timeout_ns`` the initiator's patience.

    With ``arrivals``, in the order of their times, these commands are sent instead; files have none.
    """

    name: str
    source: str
    to: str
    read_share: float = 1.0
    command_bytes: int = 65_536
    depth: int = 8
    commands: int | None = None
    capacity_bytes: int = 64 << 20
    payload_bytes: int = 2048
    start_ns: int = 0
    latency_ns: int = 0
    timeout_ns: int = 10**10
    channel: int | None = None
    arrivals: tuple[Arrival, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulation. ``sample_ns`` is the distance of the points of the time series."""

    name: str
    seed: int
    duration_ns: int
    sample_ns: int
    loss_ns: int
    switches: tuple[Switch, ...]
    hosts: tuple[Host, ...]
    isls: tuple[Isl, ...]
    flows: tuple[Flow, ...]
    faults: tuple[Fault, ...]
    scsi: tuple[Scsi, ...] = ()
