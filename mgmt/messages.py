"""The messages M1-M17 between station, arrays and measuring devices (spec section D).

Each message is a frozen dataclass; its fields are base units with the unit in the name. They travel as JSON
objects ``{"message": "<class name>", "version": 1, "request_id": "...", ...fields}`` of at most
:data:`LIMIT_BYTES` over HTTP/1.1 (``POST /messages``); an answer is the response message, or an RFC 9457
problem whose ``code`` is one of :class:`credits.errors.Code`. :func:`encode` and :func:`decode` are derived
from the dataclasses, so there is no second description of a message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import get_args

from credits.sharing import Sharing
from credits.targets import Target
from mgmt.pair_messages import GroupStatus as GroupStatus
from mgmt.pair_messages import PairCreateRequest as PairCreateRequest
from mgmt.pair_messages import PairRequest as PairRequest
from mgmt.pair_messages import VolumeChecksums as VolumeChecksums
from mgmt.pair_messages import VolumeChecksumsRequest as VolumeChecksumsRequest
from mgmt.plain import BadMessage as BadMessage
from mgmt.plain import from_plain as from_plain
from mgmt.plain import to_plain as to_plain

VERSION = 1
LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelInfoGetRequest:
    """M1 (step 802): the channel information of a port pair is wanted.

    ``remote_link``: where the remote port's Fibre Channel link is plugged in, for a port that measures its link itself.
    """

    local_port: str
    remote_port: str
    remote_link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelInfoGetResponse:
    """M2 (after step 803): what the measuring devices found; ``rtt_ns`` is send to acknowledgement.

    ``jitter_ns``, ``loss_ppm`` and ``credit_zero_ppm`` (Fibre Channel: the share of the time that the sender had no
    credit) are for people; no size is computed from them.
    """

    local_port: str
    remote_port: str
    bandwidth_bps: int
    rtt_ns: int
    measured_at: str
    method: str
    jitter_ns: int | None = None
    loss_ppm: int | None = None
    credit_zero_ppm: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceInfoGetRequest:
    """M3 (steps 805, 1202): how many units of the communication memory area are available?

    ``via``: the array's port that a target without one goes over, for an array with several interfaces.
    """

    target: Target
    via: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceInfoGetResponse:
    """M4 (after 806, 1204): sizes of the area 100 as the target sees it; advisory (GAP-6)."""

    unit_bytes: int
    available_bytes: int
    available_units: int
    expandable_units: int
    allocated_units: int
    reserved_units: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferReserveRequest:
    """M5 (step 810): reserve this many bytes for the target.

    For a connection target ``target.buffer_id`` is ``None``: the answer carries the new ID. Its ``local_port``
    and ``remote_port`` are recorded with the ID (table 1500). With ``lease_ns`` the reservation lapses unless it is
    made again in time (GAP-10). With ``sharing`` several connections share the new buffer ID, each sure of a minimum
    (paragraph 95, GAP-18). ``via``: as in M3. ``relogin``: on Fibre Channel also beyond what the login of the link has
    granted; the port then logs in anew, which ends the exchanges that are open.
    """

    target: Target
    requested_bytes: int
    expected_revision: int | None = None
    lease_ns: int | None = None
    sharing: Sharing | None = None
    relogin: bool = False
    via: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferReserveResponse:
    """M6 (step 812): granted. ``replaced`` when the target already had a reservation (INC-8).

    ``epoch`` is the fencing number by which whoever made the reservation changes or releases it as its own.
    """

    target: Target
    reserved_units: int
    reserved_bytes: int
    previous_units: int
    pending_shrink_units: int
    replaced: bool
    revision: int
    buffer_id: int | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferHoldRequest:
    """M5 in two steps: set aside what reserving this would take, for ``ttl_ns`` at most (GAP-26).

    Confirming it later is not refused for want of units, so a manager can reserve both ends or neither.
    """

    target: Target
    requested_bytes: int
    ttl_ns: int
    lease_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferHoldResponse:
    """Held. ``hold`` names it; an array that restarts has voided it, and never gives its name to another.

    ``previous_units`` and ``previous_bytes`` are what the target has reserved, and had asked for, until then.
    """

    hold: str
    target: Target
    reserved_units: int
    reserved_bytes: int
    previous_units: int
    previous_bytes: int
    revision: int
    buffer_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldConfirmRequest:
    """Turn a hold into the reservation; answered by M6, or STALE where the hold is open no more."""

    hold: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldVoidRequest:
    """Give a hold up; STALE where it is open no more."""

    hold: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldVoidResponse:
    """The hold is gone, and what it had set aside is where it was."""

    hold: str
    target: Target
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStartRequest:
    """M7 (step 813): start one connection of one session of the remote copy ``copy_id``.

    One such request is sent for every connection of every session. ``remote_host``, ``remote_port_number`` and
    ``remote_iqn`` say where the remote array's iSCSI target listens. The copy starts moving data when each of
    its ``sessions`` times ``connections_per_session`` requests has come up or has been refused.

    ``claims`` are the open kinds that this copy matches besides ``target``, at most one of each: its volumes, their
    groups, the application. The most specific kind that has a reservation serves it (GAP-24, paragraph 102).
    """

    copy_id: str
    target: Target
    volume: str
    remote_host: str
    remote_port_number: int
    remote_iqn: str
    remote_lun: int
    sessions: int
    connections_per_session: int
    session: int
    connection: int
    buffer_id: int | None = None
    claims: tuple[Target, ...] = ()
    remote_link: str | None = None
    """Over Fibre Channel: where the remote array's end of the line is, ``unix:PATH`` or ``HOST:PORT``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStartResponse:
    """Answer to M7, with the result M8r of the buffer allocation M8 (step 814)."""

    copy_id: str
    session: int
    connection: int
    buffer_address: int
    allocated_units: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStopRequest:
    """Stop a remote copy and return its units to the list they came from (GAP-4)."""

    copy_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStatusRequest:
    """How far is the copy ``copy_id``?"""

    copy_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStatus:
    """State of one remote copy.

    ``seconds`` runs from the first byte handed to TCP to the last acknowledgement; ``goodput_bps`` counts
    volume bytes only. ``error`` is one line, or empty.
    """

    copy_id: str
    local_port: str
    remote_port: str
    volume: str
    mode: str
    state: str
    connections: int
    total_bytes: int
    copied_bytes: int
    acknowledged_bytes: int
    in_flight_bytes: int
    reserved_bytes: int
    seconds: float
    goodput_bps: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelChangeNotify:
    """M9 (step 1201): bandwidth or delay of the pair has changed; ``sequence`` orders notifications (GAP-12).

    ``jitter_ns`` and ``loss_ppm`` as in M2: for people, and a notification is never made for them alone.
    """

    local_port: str
    remote_port: str
    bandwidth_bps: int
    rtt_ns: int
    measured_at: str
    sequence: int
    jitter_ns: int | None = None
    loss_ppm: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedBufferUpdateRequest:
    """M10 (step 1206): bring the target's reservation to ``recommended_bytes`` (figure 10).

    With ``epoch`` only while it is the one made under that number (STALE otherwise). ``relogin``: as in M5.
    """

    target: Target
    recommended_bytes: int
    expected_revision: int | None = None
    epoch: int | None = None
    relogin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedBufferUpdateResponse:
    """M11 (step 1208): done; shrinks below what is in use drain later (GAP-3).

    ``buffer_ids``: the connections of the pair whose reservations were changed, where it was theirs (embodiment 4); the
    numbers are then the sums.
    """

    target: Target
    reserved_units: int
    reserved_bytes: int
    previous_units: int
    pending_shrink_units: int
    revision: int
    buffer_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferControlAutomationRequest:
    """M12 (embodiment 5, paragraph 104): the cache of ``array`` is short, and a copy over ``target`` is running.

    Sent by the array to the station once as the free cache reaches the threshold, and again only after it has been
    well above it (GAP-21). ``reserved_bytes`` is what the target has reserved.
    """

    array: str
    target: Target
    reserved_bytes: int
    free_bytes: int
    threshold_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferControlAutomationResponse:
    """Answer to M12: the station's decision. Where ``enlarges``, an M14 with ``recommended_bytes`` follows at once."""

    target: Target
    recommended_bytes: int
    enlarges: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFreeQuery:
    """M13 (claims 8, 21): how much of the cache memory 102 is free?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFree:
    """Answer to M13; ``threshold_bytes`` is the warning threshold, 0 where none is set."""

    size_bytes: int
    free_bytes: int
    threshold_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedBufferEnlargeRequest:
    """M14 (claims 8, 21): move units from the free list so that the reservation has ``size_bytes``; answered by M11.

    A size below what is reserved is refused (INVALID_SIZE); equal changes nothing.
    """

    target: Target
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheThresholdSetRequest:
    """M16 (paragraph 104): the free cache at which the array asks for more buffers (M12); 0: never."""

    threshold_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationPreviewRequest:
    """What would reserving (or updating to) this many bytes do now? Nothing is changed.

    What would be refused is answered with that refusal. ``via``: as in M3. With ``release`` it is asked what giving the
    reservation up would do, with ``drain`` also while units are in use; ``requested_bytes`` is 0 then.
    """

    target: Target
    requested_bytes: int
    via: str | None = None
    release: bool = False
    drain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationPreview:
    """It would be granted: the target's units before and after, and the free list's; advisory (GAP-6)."""

    target: Target
    unit_bytes: int
    previous_units: int
    reserved_units: int
    reserved_bytes: int
    pending_shrink_units: int
    expanded_units: int
    free_units_before: int
    free_units_after: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationReleaseRequest:
    """Give the reservation up (GAP-4): BUSY while units are in use unless ``drain``; the others as in M10."""

    target: Target
    drain: bool = False
    epoch: int | None = None
    expected_revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationReleaseResponse:
    """What the release returned at once, and what is still draining."""

    target: Target
    released_units: int
    draining_units: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeDigestRequest:
    """Compute the SHA-256 of a volume as it stands on the array's disk, after a flush."""

    volume: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeDigest:
    """SHA-256 (hex) of ``length_bytes`` bytes of a volume."""

    volume: str
    sha256: str
    length_bytes: int


Message = (
    ChannelInfoGetRequest
    | ChannelInfoGetResponse
    | InterfaceInfoGetRequest
    | InterfaceInfoGetResponse
    | BufferReserveRequest
    | BufferReserveResponse
    | BufferHoldRequest
    | BufferHoldResponse
    | HoldConfirmRequest
    | HoldVoidRequest
    | HoldVoidResponse
    | CopyStartRequest
    | CopyStartResponse
    | CopyStopRequest
    | CopyStatusRequest
    | CopyStatus
    | ChannelChangeNotify
    | ReservedBufferUpdateRequest
    | ReservedBufferUpdateResponse
    | BufferControlAutomationRequest
    | BufferControlAutomationResponse
    | CacheFreeQuery
    | CacheFree
    | ReservedBufferEnlargeRequest
    | CacheThresholdSetRequest
    | ReservationPreviewRequest
    | ReservationPreview
    | ReservationReleaseRequest
    | ReservationReleaseResponse
    | VolumeDigestRequest
    | VolumeDigest
    | PairCreateRequest
    | PairRequest
    | GroupStatus
    | VolumeChecksumsRequest
    | VolumeChecksums
)

_BY_NAME: dict[str, type] = {cls.__name__: cls for cls in get_args(Message)}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with the identity of the request it belongs to (the idempotency key, GAP-5)."""

    request_id: str
    message: Message


def encode(envelope: Envelope) -> bytes:
    """One message as JSON bytes."""
    head = {
        "message": type(envelope.message).__name__,
        "version": VERSION,
        "request_id": envelope.request_id,
    }
    return json.dumps(head | to_plain(envelope.message), separators=(",", ":"), allow_nan=False).encode()


def decode(data: bytes) -> Envelope:
    """The message in ``data``.

    Raises :class:`BadMessage`: too long, not JSON, of another version, unknown, or with a field missing,
    unknown or of the wrong type.
    """
    if len(data) > LIMIT_BYTES:
        raise BadMessage(f"a message has at most {LIMIT_BYTES} bytes, this one has {len(data)}")
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"not JSON: {error}") from error
    if not isinstance(plain, dict):
        raise BadMessage("a message is a JSON object")
    version = plain.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise BadMessage(f"version {VERSION} is spoken here")
    name, request_id = plain.pop("message", None), plain.pop("request_id", None)
    if not isinstance(name, str) or (cls := _BY_NAME.get(name)) is None:
        raise BadMessage(f"unknown message {name!r}")
    if not isinstance(request_id, str) or not 1 <= len(request_id) <= 128:
        raise BadMessage("request_id is a text of 1 to 128 characters")
    return Envelope(request_id, from_plain(cls, plain, name))
