# SPDX-License-Identifier: Apache-2.0
"""Within-connection recovery at the target: what was sent is kept until the initiator acknowledges the status, and
sent again on SNACK (RFC 7143 sections 7.2-7.8, 11.16; error recovery level 1 and above). Sans-IO."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from iscsi_target.errors import ProtocolError
from iscsi_target.executor import Buffer
from iscsi_target.session.serial import add, before
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.framing import Frame
from iscsi_target.wire.opcodes import BHS_BYTES, RESERVED_TAG, Opcode, RejectReason, SnackType

if TYPE_CHECKING:
    from iscsi_target.session.target_connection import TargetConnection
    from iscsi_target.session.task import DataInSource

_unpack = CODECS[Opcode.SNACK_REQUEST].unpack
_window = struct.Struct(">II").pack
_EXP_CMD_SN_OFFSET = 28
_ACKNOWLEDGE = 0x40


class Sent(NamedTuple):
    """A PDU as it left: header without digest, data without padding."""

    header: bytes
    data: tuple[Buffer, ...]
    size: int


def _cost(sent: Sent) -> int:
    """What keeping a PDU takes, in bytes: one without data is not free."""
    return sent.size + BHS_BYTES


class Retention:
    """What one connection has sent and the initiator has not acknowledged.

    At most `limit` statuses, and `limit_bytes` of headers and data, are kept; beyond it the oldest cannot be sent
    again. `on_acknowledged` is told the task tags that are forgotten.
    """

    def __init__(self, limit: int, limit_bytes: int, on_acknowledged: Callable[[int], None]) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self.kept_bytes = 0
        self._on_acknowledged = on_acknowledged
        self._statuses: dict[int, tuple[Sent, int]] = {}
        self._data: dict[int, dict[int, Sent]] = {}
        self._sources: dict[int, DataInSource] = {}
        self._acknowledgeable: dict[int, int] = {}

    def keep_status(self, stat_sn: int, initiator_task_tag: int, sent: Sent) -> None:
        """A status-bearing PDU left."""
        again = self._statuses.get(stat_sn)
        self.kept_bytes += _cost(sent) - (_cost(again[0]) if again is not None else 0)
        self._statuses[stat_sn] = (sent, initiator_task_tag)
        while self._statuses and (len(self._statuses) > self._limit or self.kept_bytes > self._limit_bytes):
            self._forget(next(iter(self._statuses)))

    def keep_data(
        self, initiator_task_tag: int, sn: int, sent: Sent, source: DataInSource | None = None
    ) -> None:
        """A Data-In (by DataSN, with its source) or an R2T (by R2TSN) left."""
        kept = self._data.setdefault(initiator_task_tag, {})
        self.kept_bytes += _cost(sent) - (_cost(kept[sn]) if sn in kept else 0)
        kept[sn] = sent
        while self.kept_bytes > self._limit_bytes:
            oldest = next(iter(self._data))
            self.drop_task(oldest)
            self._on_acknowledged(oldest)
            if oldest == initiator_task_tag:
                return
        if source is not None:
            self._sources[initiator_task_tag] = source
            if sent.header[1] & _ACKNOWLEDGE:
                tag = int.from_bytes(sent.header[20:24], "big")
                self._acknowledgeable[tag] = initiator_task_tag

    def data_acknowledged(self, target_transfer_tag: int, beg_run: int) -> bool:
        """DataACK: the Data-In before DataSN `beg_run` has come; False when nobody asked for that."""
        initiator_task_tag = self._acknowledgeable.pop(target_transfer_tag, None)
        if initiator_task_tag is None:
            return False
        kept = self._data.get(initiator_task_tag, {})
        for sn in [sn for sn in kept if sn < beg_run]:
            self.kept_bytes -= _cost(kept.pop(sn))
        return True

    def source_again(self, initiator_task_tag: int, snack_tag: int, burst: int) -> DataInSource | None:
        """R-Data: everything that is not acknowledged of a task's Data-In, to be cut anew; None: not there."""
        source = self._sources.get(initiator_task_tag)
        whole = self._data.get(initiator_task_tag, {})
        # A bidirectional command's R2Ts are numbered together with its Data-In; they are not cut anew.
        kept = {sn: sent for sn, sent in whole.items() if sent.header[0] == Opcode.DATA_IN}
        if source is None or not kept:
            return None
        data_sn, first = next(iter(kept.items()))
        again = source.from_offset(int.from_bytes(first.header[40:44], "big"), data_sn, burst)
        again.snack_tag = snack_tag
        for stat_sn, (_, tag) in self._statuses.items():
            if tag == initiator_task_tag:
                again.stat_sn = stat_sn
        self.kept_bytes -= sum(map(_cost, kept.values()))
        for sn in kept:
            del whole[sn]
        return again

    def drop_task(self, initiator_task_tag: int) -> None:
        """The task was aborted."""
        kept = self._data.pop(initiator_task_tag, {})
        self.kept_bytes -= sum(map(_cost, kept.values()))
        self._sources.pop(initiator_task_tag, None)
        for tag in [tag for tag, task_tag in self._acknowledgeable.items() if task_tag == initiator_task_tag]:
            del self._acknowledgeable[tag]

    def acknowledged(self, exp_stat_sn: int) -> None:
        """The initiator has every status before `exp_stat_sn`."""
        for stat_sn in list(self._statuses):
            if not before(stat_sn, exp_stat_sn):
                break
            self._forget(stat_sn)

    def statuses(self, beg_run: int, run_length: int) -> list[Sent] | None:
        """The statuses of a run; length 0: all from `beg_run` on (0: all there are). None: not there any more."""
        if run_length == 0:
            return [
                sent for sn, (sent, _) in self._statuses.items() if beg_run == 0 or not before(sn, beg_run)
            ]
        wanted = [add(beg_run, number) for number in range(min(run_length, self._limit + 1))]
        if any(sn not in self._statuses for sn in wanted):
            return None
        return [self._statuses[sn][0] for sn in wanted]

    def data(self, initiator_task_tag: int, beg_run: int, run_length: int) -> list[Sent] | None:
        """The Data-In or R2T PDUs of a run; length 0: all from `beg_run` on. None: not there."""
        kept = self._data.get(initiator_task_tag)
        if kept is None:
            return None
        if run_length == 0:
            return [sent for sn, sent in kept.items() if sn >= beg_run]
        if any(sn not in kept for sn in range(beg_run, beg_run + min(run_length, len(kept) + 1))):
            return None
        return [kept[sn] for sn in range(beg_run, beg_run + run_length)]

    def _forget(self, stat_sn: int) -> None:
        sent, initiator_task_tag = self._statuses.pop(stat_sn)
        self.kept_bytes -= _cost(sent)
        self.drop_task(initiator_task_tag)
        self._on_acknowledged(initiator_task_tag)


def snack(connection: TargetConnection, frame: Frame) -> None:
    """A SNACK Request. Raises ProtocolError (Reject) for what cannot be sent again."""
    _, kind, _, _, _, initiator_task_tag, target_transfer_tag, _, beg_run, run_length = _unpack(
        frame.header, frame.offset
    )
    retention = connection.retention
    if retention is None:
        raise ProtocolError("SNACK at error recovery level 0", RejectReason.SNACK_REJECT)
    if connection.output_bytes > connection.node.limits.send_queue_bytes:
        # Each asks for up to everything that is kept; one read may bring thousands of them.
        raise ProtocolError("SNACK before earlier answers could be sent", RejectReason.SNACK_REJECT)
    found: list[Sent] | None = None
    if kind == SnackType.STATUS:
        if (initiator_task_tag, target_transfer_tag) == (RESERVED_TAG, RESERVED_TAG):
            found = retention.statuses(beg_run, run_length)
    elif kind == SnackType.DATA_OR_R2T:
        found = retention.data(initiator_task_tag, beg_run, run_length)
    elif kind == SnackType.DATA_ACK:
        if initiator_task_tag != RESERVED_TAG or not retention.data_acknowledged(
            target_transfer_tag, beg_run
        ):
            raise ProtocolError("DataACK that no A bit asked for", RejectReason.INVALID_DATA_ACK)
        return
    elif kind == SnackType.R_DATA:
        session = connection.session
        assert session is not None
        burst = session.agreed.max_burst_length
        source = None
        if target_transfer_tag not in (0, RESERVED_TAG) and not beg_run and not run_length:
            source = retention.source_again(initiator_task_tag, target_transfer_tag, burst)
        if source is not None:
            connection.send_data_again(source)
            return
    if found is None:
        raise ProtocolError("SNACK for what is not there to be sent again", RejectReason.SNACK_REJECT)
    for sent in found:
        connection.send_again(sent)


def with_current_window(header: bytes, exp_cmd_sn: int, max_cmd_sn: int) -> bytes:
    """A header as it has to be sent again: the same but for ExpCmdSN and MaxCmdSN (section 7.2.1)."""
    end = _EXP_CMD_SN_OFFSET + 8
    return header[:_EXP_CMD_SN_OFFSET] + _window(exp_cmd_sn, max_cmd_sn) + header[end:]
