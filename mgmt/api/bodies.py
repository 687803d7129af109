"""The bodies of the station's API: strict JSON, every text, count and size bounded, with the step each belongs to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from credits.checks import LEASE_LIMIT_NS
from credits.sharing import CONNECTIONS_LIMIT, Sharing
from credits.targets import BUFFER_ID_LIMIT, NAME_LIMIT, PORT_NUMBER_LIMIT, Target, TargetKind
from mgmt import sizing
from mgmt.station import alarms, channels, copies
from mgmt.station.context import canonical
from mgmt.station.records import Sizing

Text = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LIMIT)]
Count = Annotated[int, Field(ge=1, le=channels.COUNT_LIMIT)]
Size = Annotated[int, Field(ge=1, lt=2**63)]
Lease = Annotated[int, Field(ge=1, le=LEASE_LIMIT_NS)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class _Body(BaseModel):
    """Strict JSON: no unknown fields, no numbers as texts."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TargetBody(_Body):
    """A reservation target; which fields belong to which kind: :mod:`credits.targets`."""

    kind: Annotated[TargetKind, Field(strict=False)]
    local_port: Text | None = None
    remote_port: Text | None = None
    remote_port_number: Annotated[int, Field(ge=0, le=PORT_NUMBER_LIMIT)] | None = None
    buffer_id: Annotated[int, Field(ge=0, le=BUFFER_ID_LIMIT)] | None = None
    name: Text | None = None

    def target(self) -> Target:
        """The target, checked, its addresses in their usual spelling."""
        return canonical(Target(**self.model_dump()))


class ViaBody(_Body):
    """The port pair that a target without ports of its own goes over."""

    local_port: Text
    remote_port: Text


class TargetOnlyBody(_Body):
    """A target; of the open kinds with the port pair that it goes over, which says the array and the channel."""

    target: TargetBody
    via: ViaBody | None = None

    @property
    def pair(self) -> tuple[str, str] | None:
        """The ports of ``via``."""
        return None if self.via is None else (self.via.local_port, self.via.remote_port)

    def row_target(self) -> Target:
        """The target whose row of table 108 is meant."""
        return channels.over(self.target.target(), self.pair)


class PairBody(TargetOnlyBody):
    """Step 801, screens 601 and 1401."""

    sessions: Count | None = None
    connections_per_session: Count | None = None


class MeasureBody(_Body):
    """Steps 802-804 for one pair."""

    local_port: Text
    remote_port: Text


class RecommendBody(PairBody):
    """Step 808, screen 701."""

    remeasure: bool = False
    policy: Text = sizing.DOCUMENT


class SharingBody(_Body):
    """How many connections share a new buffer ID, and what each of them is sure of (paragraph 95, GAP-18)."""

    connections: Annotated[int, Field(ge=2, le=CONNECTIONS_LIMIT)]
    minimum_bytes: Size

    def sharing(self) -> Sharing:
        """As the arrays have it."""
        return Sharing(connections=self.connections, minimum_bytes=self.minimum_bytes)


class ReserveBody(PairBody):
    """Steps 809-812; without ``size_bytes`` the size is the recommended one (AUTO 704).

    ``relogin``: on Fibre Channel also beyond what the login has granted; the link then logs in again.
    """

    size_bytes: Size | None = None
    sharing: SharingBody | None = None
    lease_ns: Lease | None = None
    relogin: bool = False
    expected_revision: int | None = None
    request_id: RequestId | None = None


class BothEndsBody(PairBody):
    """A port pair and its mirror image on the other array (GAP-26)."""

    size_bytes: Size | None = None
    lease_ns: Lease | None = None


class UpdateBody(TargetOnlyBody):
    """Steps 1206-1208; without ``size_bytes`` the size is the recommended one. ``relogin``: as in a reservation."""

    size_bytes: Size | None = None
    relogin: bool = False
    expected_revision: int | None = None
    request_id: RequestId | None = None


class PreviewBody(PairBody):
    """A reservation that is not made; the values given stand in for those of table 108."""

    size_bytes: Size | None = None
    bandwidth_bps: Annotated[int, Field(ge=1, le=10**15)] | None = None
    rtt_ns: Annotated[int, Field(ge=1, le=10**12)] | None = None


class ReleaseBody(TargetOnlyBody):
    """Giving a reservation up; BUSY while units are in use unless ``drain``."""

    drain: bool = False
    expected_revision: int | None = None
    request_id: RequestId | None = None


class CopyBody(PairBody):
    """Step 813; ``application`` and ``volume_groups`` (local, remote) say which open kinds the copy matches."""

    volume: Text
    remote_volume: Text | None = None
    application: Text = copies.APPLICATION
    volume_groups: Annotated[list[Text], Field(min_length=2, max_length=2)] | None = None
    copy_id: RequestId | None = None


class NoteBody(_Body):
    """What somebody says about an alarm."""

    note: Annotated[str, StringConstraints(max_length=alarms.NOTE_LIMIT)] = ""


class PolicyTargetBody(_Body):
    """The target of a policy."""

    target: TargetBody


class PolicyBody(TargetOnlyBody):
    """A policy (704, 705, GAP-10 to GAP-14); what is not given keeps its value."""

    sizing: Annotated[Sizing, Field(strict=False)] | None = None
    size_bytes: Size | None = None
    min_bytes: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    max_bytes: Size | None = None
    min_change_percent: Annotated[int, Field(ge=0, le=1000)] | None = None
    min_interval_s: Annotated[int, Field(ge=0, le=86_400)] | None = None
    shrink_samples: Annotated[int, Field(ge=1, le=1000)] | None = None
    shrink_after_s: Annotated[int, Field(ge=0, le=7 * 86_400)] | None = None
    lease_s: Annotated[int, Field(ge=30, le=30 * 86_400)] | None = None
    allow_partial: bool | None = None
    priority: Annotated[int, Field(ge=0, le=1000)] | None = None


Address = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class ArrayNameBody(_Body):
    """An array by its name."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class ArrayBody(ArrayNameBody):
    """An array, and where its control API is."""

    address: Address


class ThresholdBody(_Body):
    """M16: the free cache at which an array warns."""

    threshold_bytes: Annotated[int, Field(ge=0, lt=2**62)]


class EnlargeBody(TargetOnlyBody):
    """M14: a reservation and its larger size."""

    size_bytes: Size


class UndoBody(_Body):
    """Which record of the audit trail is taken back; the last change unless told."""

    number: Annotated[int, Field(ge=1, lt=2**53)] | None = None


Rate = Annotated[int, Field(ge=1, le=10**15)]
Delay = Annotated[int, Field(ge=1, le=10**12)]


class FailureBody(ViaBody):
    """A channel that fails, and the one that would take its traffic over."""

    onto: ViaBody | None = None
    bandwidth_bps: Rate | None = None
    rtt_ns: Delay | None = None


class SupposedBody(ViaBody):
    """A channel as it might be."""

    bandwidth_bps: Rate | None = None
    rtt_ns: Delay | None = None
    sessions: Count | None = None
    connections_per_session: Count | None = None


class ChannelsBody(_Body):
    """Channels as they might be."""

    channels: Annotated[list[SupposedBody], Field(min_length=1, max_length=64)]


TwoNames = Annotated[list[Text], Field(min_length=2, max_length=2)]
Few = Annotated[int, Field(ge=1, le=256)]


class GroupBody(_Body):
    """A consistency group; ports, volumes and journals as (here, there)."""

    group: Text
    ports: TwoNames
    volumes: Annotated[list[TwoNames], Field(min_length=1, max_length=64)]
    journal: TwoNames
    mode: Literal["sync", "async"] = "async"
    fence: Literal["never", "data"] = "never"
    sessions: Few = 1
    connections_per_session: Few = 1
    priority: Annotated[int, Field(ge=0, le=255)] = 0
    overwrite: bool = False


class GroupVerbBody(_Body):
    """How a verb is meant: ``full`` of resync, ``force`` of takeover and delete."""

    full: bool = False
    force: bool = False
