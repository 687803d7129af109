"""Two real ends and an imaginary wire, and a tiny device server to stand behind them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from iscsi_target.executor import ResetKind, ScsiCommand, ScsiResult
from iscsi_target.session.initiator_connection import InitiatorConnection
from iscsi_target.session.initiator_login import LoginWish
from iscsi_target.session.initiator_session import InitiatorSession, InitiatorTask
from iscsi_target.session.limits import Limits
from iscsi_target.session.node import Portal, Target, TargetNode
from iscsi_target.session.parameters import Parameters
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.session.task import Task, TaskState
from iscsi_target.wire.codec import Pdu, decode_pdu, encode_pdu
from iscsi_target.wire.framing import Framer
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import Stage
from iscsi_target.wire.requests import LoginRequest, NopOut, ScsiCommandPdu
from iscsi_target.wire.responses import LoginResponse, NopIn
from iscsi_target.wire.text import Pair, decode_text, encode_text

TARGET = "iqn.2026-11.example:target"
HOST = "iqn.2026-11.example:host"
ISID = bytes.fromhex("800001020304")
BLOCK = 512

READ_16, WRITE_16, TEST_UNIT_READY = 0x88, 0x8A, 0x00
ILLEGAL_REQUEST = bytes((0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0))


def read_16(lba: int, blocks: int) -> bytes:
    return bytes((READ_16, 0)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(2)


def write_16(lba: int, blocks: int) -> bytes:
    return bytes((WRITE_16, 0)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(2)


class RamDisk:
    """A device server for READ(16), WRITE(16) and TEST UNIT READY on one LUN; remembers what it was told."""

    def __init__(self, blocks: int = 4096, *, threads: bool = False) -> None:
        self.content = bytearray(blocks * BLOCK)
        self.threads = threads
        self.executed: list[bytes] = []
        self.resets: list[tuple[ResetKind, int | None]] = []
        self.established: list[str] = []
        self.lost: list[str] = []
        self.abandoned: list[bytes] = []
        self.fail: Exception | None = None

    def data_out_length(self, command: ScsiCommand) -> int:
        if command.cdb[0] == WRITE_16:
            return int.from_bytes(command.cdb[10:14], "big") * BLOCK
        return 0

    def blocking(self, command: ScsiCommand) -> bool:
        return self.threads

    def execute(self, command: ScsiCommand) -> ScsiResult:
        if self.fail is not None:
            raise self.fail
        self.executed.append(bytes(command.cdb))
        start = int.from_bytes(command.cdb[2:10], "big") * BLOCK
        size = int.from_bytes(command.cdb[10:14], "big") * BLOCK
        if command.cdb[0] == TEST_UNIT_READY:
            return ScsiResult(0)
        if command.cdb[0] == READ_16 and start + size <= len(self.content):
            return ScsiResult(0, (bytes(self.content[start : start + size]),))
        if command.cdb[0] == WRITE_16 and start + size <= len(self.content):
            self.content[start : start + len(command.data_out)] = command.data_out
            return ScsiResult(0)
        return ScsiResult(2, sense=ILLEGAL_REQUEST)

    def abandon(self, command: ScsiCommand) -> None:
        self.abandoned.append(bytes(command.cdb))

    def luns_for(self, initiator_name: str) -> Sequence[int]:
        return (0,)

    def i_t_nexus_established(self, initiator_name: str, initiator_port: str, target_port: int) -> None:
        self.established.append(initiator_port)

    def i_t_nexus_loss(self, initiator_port: str, target_port: int) -> None:
        self.lost.append(initiator_port)

    def reset(self, kind: ResetKind, lun: int | None, initiator_port: str, target_port: int) -> bool:
        if lun not in (None, 0):
            return False
        self.resets.append((kind, lun))
        return True


def make_node(disk: RamDisk | None = None, *, limits: Limits | None = None, **target: Any) -> TargetNode:
    node = TargetNode([Target(name=TARGET, logical_units=disk or RamDisk(), **target)], limits)
    node.portals = (Portal("192.0.2.1", 3260, 1),)
    return node


def accept(
    node: TargetNode, *, seed: int = 1, now_ns: int = 0, peer: str = "192.0.2.9:40000"
) -> TargetConnection:
    return TargetConnection(
        node,
        peer=peer,
        local_host="192.0.2.1",
        portal_group_tag=1,
        random_bytes=random.Random(seed).randbytes,
        now_ns=now_ns,
    )


def run_ready(connection: TargetConnection) -> None:
    """Be the shell: execute what is ready."""
    while connection.ready and connection.session is not None:
        task = connection.ready.popleft()
        assert connection.session.target is not None
        result = connection.session.target.logical_units.execute(task.command)
        assert isinstance(result, ScsiResult)
        connection.session.complete(task, result)
    while connection.data_in_bytes:
        connection.emit_data_in(1 << 20)


class Conversation:
    """A hand-driven initiator in front of a real target connection: PDUs in, PDUs out."""

    def __init__(
        self, node: TargetNode, *, cid: int = 0, tsih: int = 0, isid: bytes = ISID, seed: int = 1
    ) -> None:
        self.node = node
        self.target = accept(node, seed=seed, peer=f"192.0.2.9:{40000 + cid}")
        self.framer = Framer(1 << 24)
        self.cid = cid
        self.tsih = tsih
        self.isid = isid
        self.cmd_sn = 1
        self.exp_stat_sn = 0
        self.now_ns = 0

    def send_bytes(self, data: bytes, *, execute: bool = True) -> list[Pdu]:
        self.target.receive(data, self.now_ns)
        return self.answers(execute=execute)

    def answers(self, *, execute: bool = True) -> list[Pdu]:
        if execute:
            run_ready(self.target)
        data = b"".join(bytes(buffer) for buffer in self.target.take_output())
        return [decode_pdu(frame.whole()) for frame in self.framer.receive(data)]

    def send(self, *pdus: Pdu, execute: bool = True) -> list[Pdu]:
        return self.send_bytes(b"".join(encode_pdu(pdu) for pdu in pdus), execute=execute)

    def login_request(self, pairs: Sequence[Pair], **fields: Any) -> LoginRequest:
        values: dict[str, Any] = {
            "transit": True,
            "csg": Stage.LOGIN_OPERATIONAL_NEGOTIATION,
            "nsg": Stage.FULL_FEATURE_PHASE,
            "isid": self.isid,
            "tsih": self.tsih,
            "initiator_task_tag": 7,
            "cid": self.cid,
            "cmd_sn": self.cmd_sn,
            "data": encode_text(pairs),
        }
        return LoginRequest(**(values | fields))

    def log_in(self, *more: Pair, target: str = TARGET) -> LoginResponse:
        """Log in with one request; the defaults of the standard but for `more`."""
        pairs = [("InitiatorName", HOST), ("TargetName", target), ("SessionType", "Normal"), *more]
        (response,) = self.send(self.login_request(pairs))
        assert isinstance(response, LoginResponse)
        assert (response.status_class, response.status_detail) == (0, 0)
        self.tsih = response.tsih
        return response

    def log_in_for_discovery(self) -> LoginResponse:
        (response,) = self.send(self.login_request([("InitiatorName", HOST), ("SessionType", "Discovery")]))
        assert isinstance(response, LoginResponse)
        return response

    def next_cmd_sn(self) -> int:
        self.cmd_sn += 1
        return self.cmd_sn - 1

    def command(self, cdb: bytes, *, tag: int, cmd_sn: int | None = None, **fields: Any) -> ScsiCommandPdu:
        return ScsiCommandPdu(
            cdb=cdb.ljust(16, b"\0"),
            initiator_task_tag=tag,
            cmd_sn=self.next_cmd_sn() if cmd_sn is None else cmd_sn,
            exp_stat_sn=self.exp_stat_sn,
            lun=fields.pop("lun", lun_to_bytes(0)),
            **fields,
        )

    def assert_alive(self) -> None:
        """The connection still answers a ping."""
        ping = NopOut(
            immediate=True, initiator_task_tag=0xABCD, cmd_sn=self.cmd_sn, exp_stat_sn=0, data=b"still alive?"
        )
        answers = [pdu for pdu in self.send(ping) if isinstance(pdu, NopIn)]
        assert [(pdu.initiator_task_tag, pdu.data) for pdu in answers] == [(0xABCD, b"still alive?")]


def login_pairs(response: LoginResponse) -> dict[str, str]:
    return dict(decode_text(response.data))


class Pair2Ends:
    """A real initiator session and a real target node, joined by function calls."""

    def __init__(
        self,
        node: TargetNode,
        *,
        parameters: Parameters | None = None,
        target_name: str = TARGET,
        isid: bytes = ISID,
        chunk: Callable[[], int] | None = None,
        address: str = "192.0.2.9",
        **wish: Any,
    ) -> None:
        self.node = node
        self.address = address
        self.session = InitiatorSession()
        self.parameters = parameters or Parameters()
        self.links: dict[int, tuple[InitiatorConnection, TargetConnection]] = {}
        self._wish = {"initiator_name": HOST, "target_name": target_name, "isid": isid} | wish
        self._chunk = chunk

    def connect(self, cid: int = 0, *, seed: int = 3) -> None:
        wish = LoginWish(parameters=self.parameters, cid=cid, tsih=self.session.tsih, **self._wish)
        core = InitiatorConnection(self.session, wish, random_bytes=random.Random(seed).randbytes)
        self.links[cid] = (core, accept(self.node, seed=seed + 1000, peer=f"{self.address}:{40000 + cid}"))
        core.start()
        self.transfer()

    def transfer(self) -> None:
        """Carry bytes both ways and execute commands until nothing moves."""
        moved = True
        while moved:
            moved = False
            for initiator, target in self.links.values():
                up = b"".join(bytes(buffer) for buffer in initiator.take_output())
                for piece in self._pieces(up, up=True):
                    moved = True
                    target.receive(piece, 0)
                run_ready(target)
                down = b"".join(bytes(buffer) for buffer in target.take_output())
                for piece in self._pieces(down, up=False):
                    moved = True
                    initiator.receive(piece)

    def _pieces(self, data: bytes, *, up: bool) -> list[bytes]:
        if self._chunk is None:
            return [data] if data else []
        pieces = []
        while data:
            size = self._chunk()
            pieces.append(data[:size])
            data = data[size:]
        return pieces

    def submit(self, cdb: bytes, *, cid: int = 0, data_out: bytes = b"", data_in: int = 0) -> int:
        connection = self.links[cid][0]
        tag = self.session.new_task_tag()
        buffer = memoryview(bytearray(data_in)) if data_in else None
        connection.submit(
            InitiatorTask(
                connection, tag, lun_to_bytes(0), cdb.ljust(16, b"\0"), data_out=data_out, data_in=buffer
            )
        )
        return tag


class Recorded(Pair2Ends):
    """Two ends whose wire keeps what went over it: (from the initiator, bytes), one piece for each turn."""

    def __init__(self, node: TargetNode, **options: Any) -> None:
        super().__init__(node, **options)
        self.recorded: list[tuple[bool, bytes]] = []

    def _pieces(self, data: bytes, *, up: bool) -> list[bytes]:
        if data:
            self.recorded.append((up, data))
        return super()._pieces(data, up=up)


def hold(task: Task) -> None:
    """The device server has begun with this task and is not done."""
    task.state = TaskState.EXECUTING
