"""The fast path inside a session: what it answers is what the general path answers."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.fast_units import offers_fast_path
from iscsi_target.scsi.logical_unit import LogicalUnit, LogicalUnitConfig, derive_identity
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.stores.null import NullStore
from iscsi_target.scsi.target_device import TargetDevice
from iscsi_target.session.limits import Limits
from iscsi_target.session.node import Portal, Target, TargetNode
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.wire.codec import Pdu, decode_pdu, encode_pdu
from iscsi_target.wire.digest import digest
from iscsi_target.wire.framing import Framer
from iscsi_target.wire.opcodes import Stage, TaskFunction
from iscsi_target.wire.requests import (
    DataOut,
    LoginRequest,
    NopOut,
    ScsiCommandPdu,
    TaskManagementRequest,
)
from iscsi_target.wire.responses import DataIn, ScsiResponse
from iscsi_target.wire.text import encode_text
from tests.iscsi_target.imaginary_wire import HOST, ISID, TARGET, RamDisk

BLOCK, BLOCKS = 512, 256
LIMITS = Limits(queued_commands=16)


class Side:
    """An initiator by hand, in front of a target with or without the fast path; be the shell as well."""

    def __init__(
        self, *, fast: bool, digests: str = "None", data_digests: str = "None", limit: int = 1 << 20
    ) -> None:
        self.store = MemoryStore(BLOCK * BLOCKS)
        self.store.write(0, random.Random(7).randbytes(BLOCK * BLOCKS))
        units = {
            0: LogicalUnit(self.store, derive_identity(TARGET, 0)),
            1: LogicalUnit(
                NullStore(BLOCK * BLOCKS), derive_identity(TARGET, 1), LogicalUnitConfig(read_only=True)
            ),
        }
        self.node = TargetNode([Target(name=TARGET, logical_units=TargetDevice(TARGET, units))], LIMITS)
        self.node.portals = (Portal("192.0.2.1", 3260, 1),)
        self.core = TargetConnection(
            self.node,
            peer="192.0.2.9:40000",
            local_host="192.0.2.1",
            portal_group_tag=1,
            random_bytes=random.Random(1).randbytes,
            now_ns=0,
            fast_path=fast,
        )
        self.framer = Framer(1 << 24)
        self.limit = limit
        self.fast_commands = 0
        pairs = [
            ("InitiatorName", HOST),
            ("TargetName", TARGET),
            ("SessionType", "Normal"),
            ("InitialR2T", "No"),
            ("FirstBurstLength", "4096"),
            ("MaxBurstLength", "4096"),
            ("MaxRecvDataSegmentLength", "4096"),
            ("HeaderDigest", digests),
            ("DataDigest", data_digests),
            ("ErrorRecoveryLevel", "0"),
        ]
        self.header_digest, self.data_digest = digests != "None", data_digests != "None"
        self.send_bytes(
            encode_pdu(
                LoginRequest(
                    transit=True,
                    csg=Stage.LOGIN_OPERATIONAL_NEGOTIATION,
                    nsg=Stage.FULL_FEATURE_PHASE,
                    isid=ISID,
                    tsih=0,
                    initiator_task_tag=7,
                    cid=0,
                    cmd_sn=1,
                    exp_stat_sn=0,
                    data=encode_text(pairs),
                )
            )
        )
        assert self.core.session is not None
        self.framer.header_digest, self.framer.data_digest = self.header_digest, self.data_digest
        for number, lun in enumerate((0, 1)):  # takes the unit attention of the power on
            self.send(command(bytes(6), tag=1, cmd_sn=1 + number, lun=lun))

    def encoded(self, pdu: Pdu) -> bytes:
        raw = encode_pdu(pdu)
        head_end = 48 + len(pdu.ahs)
        head, body = raw[:head_end], raw[head_end:]
        head += digest(head) if self.header_digest else b""
        return head + body + (digest(body) if self.data_digest and body else b"")

    def send(self, *pdus: Pdu) -> list[Pdu]:
        return self.send_bytes(b"".join(self.encoded(pdu) for pdu in pdus))

    def send_bytes(self, data: bytes) -> list[Pdu]:
        """One read, into a buffer that is overwritten afterwards, and one turn of the shell."""
        buffer = bytearray(data)
        core, session = self.core, self.core.session
        self.core.receive(buffer, 0, transient=True)
        if core.fast is not None and core.fast.taken:
            taken = len(core.fast.taken)
            core.run_fast(self.limit)
            self.fast_commands += taken - len(core.fast.taken)
            core.give_up_fast()
            assert not core.fast.taken
        while core.ready or core.data_in_bytes:
            while core.ready and session is not None and session.target is not None:
                task = core.ready.popleft()
                result = session.target.logical_units.execute(task.command)
                assert isinstance(result, ScsiResult)
                session.complete(task, result)
            core.emit_data_in(1 << 20)
        size, output = core.output_bytes, core.take_output()
        assert size == sum(map(len, output))
        written = b"".join(map(bytes, output))
        core.account(1000)
        buffer[:] = bytes(len(buffer))
        return [decode_pdu(frame.whole()) for frame in self.framer.receive(written)]


def command(cdb: bytes, *, tag: int, cmd_sn: int, lun: int = 0, **fields: Any) -> ScsiCommandPdu:
    return ScsiCommandPdu(
        cdb=cdb.ljust(16, b"\0"),
        initiator_task_tag=tag,
        cmd_sn=cmd_sn,
        exp_stat_sn=0,
        lun=bytes((0, lun)) + bytes(6),
        **fields,
    )


def transfer(code: int, lba: int, blocks: int) -> bytes:
    if code & 0x80:
        return bytes((code, 0)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(2)
    return bytes((code, 0)) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


def answers(pdus: list[Pdu]) -> dict[int, list[tuple[Any, ...]]]:
    """By task tag, what an initiator makes of it: the numbers of the session are left out."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for pdu in pdus:
        said: tuple[Any, ...] = (type(pdu).__name__, pdu.data)
        if isinstance(pdu, DataIn):
            said += (pdu.data_sn, pdu.buffer_offset, pdu.final, pdu.status_present, pdu.status, pdu.lun)
            said += (pdu.underflow, pdu.overflow, pdu.residual_count)
        elif isinstance(pdu, ScsiResponse):
            said += (
                pdu.response,
                pdu.status,
                pdu.underflow,
                pdu.overflow,
                pdu.residual_count,
                pdu.exp_data_sn,
            )
        found.setdefault(getattr(pdu, "initiator_task_tag", -1), []).append(said)
    return found


def stat_sns(pdus: list[Pdu]) -> list[int]:
    return [
        pdu.stat_sn  # type: ignore[union-attr]
        for pdu in pdus
        if not (isinstance(pdu, DataIn) and not pdu.status_present) and type(pdu).__name__ != "R2T"
    ]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "read",
                "read",
                "read",
                "write",
                "write",
                "write",
                "half",
                "odd",
                "ping",
                "reset",
                "other",
                "read-only",
                "ordered",
            )
        ),
        st.integers(0, BLOCKS + 2),
        st.integers(0, 12),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@given(
    steps=STEPS,
    cuts=st.lists(st.integers(1, 9000), max_size=4),
    header=st.booleans(),
    data=st.booleans(),
    limit=st.sampled_from((0, 3000, 1 << 20)),
)
def test_the_fast_path_answers_as_the_general_path_does(
    steps: list[tuple[str, int, int, bool]], cuts: list[int], header: bool, data: bool, limit: int
) -> None:
    digests: dict[str, Any] = {
        "digests": "CRC32C" if header else "None",
        "data_digests": "CRC32C" if data else "None",
    }
    sides = [Side(fast=True, limit=limit, **digests), Side(fast=False, **digests)]
    pdus: list[Pdu] = []
    cmd_sn = 3
    for number, (kind, lba, blocks, wide) in enumerate(steps):
        tag, size = 100 + number, blocks * BLOCK
        filling = bytes((number + 1,)) * size
        read, write = (0x88, 0x8A) if wide else (0x28, 0x2A)
        lba = min(lba, BLOCKS + 2 - blocks)
        fields: dict[str, Any] = {"tag": tag, "cmd_sn": cmd_sn}
        match kind:
            case "read":
                pdus.append(
                    command(
                        transfer(read, lba, blocks), read=True, expected_data_transfer_length=size, **fields
                    )
                )
            case "write" if size <= 4096:
                pdus.append(
                    command(
                        transfer(write, lba, blocks),
                        write=True,
                        expected_data_transfer_length=size,
                        data=filling,
                        **fields,
                    )
                )
            case "half" if 0 < size <= 4096:  # the other half follows unsolicited
                half = size // 2
                pdus.append(
                    command(
                        transfer(write, lba, blocks),
                        write=True,
                        final=False,
                        expected_data_transfer_length=size,
                        data=filling[:half],
                        **fields,
                    )
                )
                pdus.append(
                    DataOut(
                        final=True,
                        initiator_task_tag=tag,
                        exp_stat_sn=0,
                        data_sn=0,
                        buffer_offset=half,
                        data=filling[half:],
                    )
                )
            case "ordered":
                pdus.append(
                    command(
                        transfer(read, lba, blocks),
                        read=True,
                        attr=2,
                        expected_data_transfer_length=size,
                        **fields,
                    )
                )
            case "odd":  # a residual
                pdus.append(
                    command(
                        transfer(read, lba, blocks), read=True, expected_data_transfer_length=1000, **fields
                    )
                )
            case "read-only":
                pdus.append(
                    command(
                        transfer(write, 0, 1),
                        write=True,
                        lun=1,
                        expected_data_transfer_length=512,
                        data=bytes(512),
                        **fields,
                    )
                )
            case "ping":
                pdus.append(NopOut(initiator_task_tag=tag, cmd_sn=cmd_sn, exp_stat_sn=0, data=b"ping"))
            case "reset":
                pdus.append(
                    TaskManagementRequest(
                        function=TaskFunction.ABORT_TASK_SET,
                        lun=bytes(8),
                        initiator_task_tag=tag,
                        cmd_sn=cmd_sn,
                        exp_stat_sn=0,
                    )
                )
            case _:
                pdus.append(command(bytes(6), **fields))
        cmd_sn += 1
    stream = b"".join(sides[0].encoded(pdu) for pdu in pdus)
    pieces = []
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    pieces.append(stream)
    told: list[list[Pdu]] = [[], []]
    for piece in pieces:
        if piece:
            for side, said in zip(sides, told, strict=True):
                said += side.send_bytes(piece)
    assert answers(told[0]) == answers(told[1])
    first, second = (side.core.session for side in sides)
    assert first is not None
    assert second is not None
    for side, said in zip(sides, told, strict=True):
        numbers = stat_sns(said)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        session = side.core.session
        assert session is not None
        assert (session.max_cmd_sn - session.exp_cmd_sn + 1, len(session.tasks)) == (
            LIMITS.queued_commands,
            0,
        )
    assert first.statistics() == second.statistics()
    assert bytes(sides[0].store.memory) == bytes(sides[1].store.memory)


def test_plain_commands_do_take_the_fast_path() -> None:
    side = Side(fast=True)
    pdus: list[Pdu] = [
        command(
            transfer(0x2A, number, 2),
            tag=number,
            cmd_sn=3 + number,
            write=True,
            expected_data_transfer_length=1024,
            data=bytes(1024),
        )
        for number in range(5)
    ]
    pdus += [
        command(transfer(0x88, 0, 8), tag=9 + n, cmd_sn=8 + n, read=True, expected_data_transfer_length=4096)
        for n in range(5)
    ]
    assert len(side.send(*pdus)) == 10
    assert side.fast_commands == 10
    session = side.core.session
    assert session is not None
    (lun, _) = session.statistics().luns
    assert (lun.traffic.read_commands, lun.traffic.write_commands, lun.traffic.answered) == (5, 5, 11)
    assert (lun.traffic.read_bytes, lun.traffic.written_bytes) == (5 * 4096, 5 * 1024)


def test_a_reservation_a_unit_attention_and_a_command_before_close_the_fast_path() -> None:
    side = Side(fast=True)
    read = transfer(0x28, 0, 1)
    fields: dict[str, Any] = {"read": True, "expected_data_transfer_length": 512}
    side.send(command(read, tag=1, cmd_sn=3, **fields))
    assert side.fast_commands == 1
    side.send(command(bytes((0x16, 0, 0, 0, 0, 0)), tag=2, cmd_sn=4))  # RESERVE (6)
    side.send(command(read, tag=3, cmd_sn=5, **fields))
    assert side.fast_commands == 1
    side.send(command(bytes((0x17, 0, 0, 0, 0, 0)), tag=4, cmd_sn=6))  # RELEASE (6)
    side.send(command(bytes(6), tag=5, cmd_sn=7), command(read, tag=6, cmd_sn=8, **fields))
    assert side.fast_commands == 1, "it would have overtaken the TEST UNIT READY"
    side.send(command(read, tag=7, cmd_sn=9, **fields))
    assert side.fast_commands == 2


class Executing(TargetDevice):
    """Has something of its own to do with every command."""

    def execute(self, command: ScsiCommand) -> ScsiResult:
        return super().execute(command)


class Handing:
    """Hands everything through."""

    def __init__(self, device: TargetDevice) -> None:
        self.device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)


def test_nobody_who_stands_before_the_units_is_gone_around() -> None:
    units = {0: LogicalUnit(MemoryStore(1 << 20), derive_identity(TARGET, 0))}
    device = TargetDevice(TARGET, units)
    assert offers_fast_path(device)
    assert not offers_fast_path(RamDisk())
    assert not offers_fast_path(Executing(TARGET, units))
    assert not offers_fast_path(Handing(device))
    vars(device)["execute"] = device.execute
    assert not offers_fast_path(device)


@pytest.mark.parametrize("config", [LogicalUnitConfig(write_cache=False), LogicalUnitConfig(read_only=True)])
def test_writes_that_have_to_be_durable_or_refused_go_the_general_way(config: LogicalUnitConfig) -> None:
    unit = LogicalUnit(MemoryStore(1 << 20), derive_identity(TARGET, 0), config)
    device = TargetDevice(TARGET, {0: unit})
    server = device._servers[0]
    assert server.fast is not None
    assert server.fast.look() == (2048, 0)
