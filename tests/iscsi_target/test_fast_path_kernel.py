"""The kernel of the fast path: against the construct descriptions, and compiled against plain."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_target import fast_path_kernel
from iscsi_target.scsi.hot_path import FAST_CDBS
from iscsi_target.scsi.read_write import READ_10, READ_16, WRITE_10, WRITE_16
from iscsi_target.session.counters import Traffic
from iscsi_target.wire.derive import UnknownConstruct
from iscsi_target.wire.digest import digest
from iscsi_target.wire.partial import partial_format
from iscsi_target.wire.requests import ScsiCommandPdu
from iscsi_target.wire.responses import DataIn, ScsiResponse
from tests.twins import plain

BLOCK, BLOCKS = 512, 64
LUN = 0x0001_0000_0000_0000
LAYOUTS = {layout.opcode: layout for layout in (READ_10, READ_16, WRITE_10, WRITE_16)}
PLAIN = plain("iscsi_target.fast_path_kernel")
KERNELS = [pytest.param(PLAIN, id="plain")] + (
    [pytest.param(fast_path_kernel, id="compiled")] if fast_path_kernel.COMPILED else []
)
SERIALS = st.one_of(st.integers(0, 0xFFFFFFFF), st.sampled_from((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)))


class Rig:
    """One fast path before a disk of 64 blocks; LUN 2 is read-only, LUN 3 is a disk without a view of its memory."""

    def __init__(
        self,
        kernel: ModuleType,
        *,
        header_digest: bool = False,
        data_digest: bool = False,
        read_limit: int = 8 * BLOCK,
    ) -> None:
        self.memory = bytearray(range(256)) * (BLOCK * BLOCKS // 256)
        view = memoryview(self.memory)
        self.look = (BLOCKS, BLOCKS)
        self.fail_at: int | None = None

        def read(offset: int, length: int) -> tuple[memoryview, ...]:
            return view[offset : offset + length // 2], view[offset + length // 2 : offset + length]

        def write(offset: int, data: memoryview) -> None:
            if offset == self.fail_at:
                raise OSError("the medium fails")
            self.memory[offset : offset + len(data)] = data

        self.marks = bytearray(b"\1" * BLOCKS)
        find = self.marks.find
        self.traffic = {1: Traffic(), 2: Traffic(), 3: Traffic()}
        self.disks = {
            1: kernel.FastDisk(lambda: self.look, view, find, BLOCK, read, write, BLOCK, 16),
            2: kernel.FastDisk(lambda: (BLOCKS, 0), view, find, BLOCK, read, write, BLOCK, 16),
            3: kernel.FastDisk(lambda: self.look, None, None, BLOCK, read, write, BLOCK, 16),
        }
        self.path = kernel.FastPath(FAST_CDBS, self.find, read_limit, 8 * BLOCK, header_digest, data_digest)

    def find(self, lun_field: int) -> Any:
        lun = lun_field >> 48
        return (
            (self.disks[lun], self.traffic[lun])
            if lun in self.disks and not lun_field & (1 << 48) - 1
            else None
        )

    def take(self, source: bytes, exp_cmd_sn: int, max_cmd_sn: int, tasks: Any = None) -> tuple[Any, ...]:
        """What `take` says, in words that both twins share."""
        after = self.path.take(source, 0, len(source), tasks or {}, exp_cmd_sn, max_cmd_sn)
        taken = [
            (unit.lun, tag, offset, length, None if data is None else bytes(data), start)
            for unit, tag, offset, length, data, _, start in self.path.taken
        ]
        return after, self.path.exp_cmd_sn, self.path.data_in_bytes, taken

    def run(self, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int, limit: int) -> tuple[Any, ...]:
        output: list[Any] = []
        counted = self.path.run(output, stat_sn, exp_cmd_sn, max_cmd_sn, limit)
        path = self.path
        assert sum(map(len, output)) == path.output_bytes
        return (
            b"".join(map(bytes, output)),
            [count for _, count in counted],
            (path.stat_sn, path.max_cmd_sn, path.data_in_bytes, len(path.taken), path.failures),
            [traffic.statistics() for traffic in self.traffic.values()],
            bytes(self.memory),
        )


def command(
    writing: bool,
    lba: int,
    blocks: int,
    *,
    tag: int = 5,
    cmd_sn: int = 7,
    long: bool = False,
    at: int = 1,
    **fields: Any,
) -> ScsiCommandPdu:
    layout = LAYOUTS[(0x8A if long else 0x2A) if writing else (0x88 if long else 0x28)]
    data = bytes((tag & 0xFF,)) * (blocks * BLOCK) if writing else b""
    values: dict[str, Any] = {
        "read": not writing,
        "write": writing,
        "lun": bytes((0, at)) + bytes(6),
        "initiator_task_tag": tag,
        "expected_data_transfer_length": blocks * BLOCK,
        "cmd_sn": cmd_sn,
        "exp_stat_sn": 99,
        "cdb": layout.build(lba=lba, blocks=blocks).ljust(16, b"\0"),
        "data": data,
    }
    return ScsiCommandPdu(**(values | fields))


def built(pdu: Any) -> bytes:
    """By construct itself, not by anything derived from it."""
    names = [name for name in type(pdu).__slots__ if name not in ("ahs", "data")]
    values = {name: getattr(pdu, name) for name in names}
    first = {"immediate": values.pop("immediate")} if "immediate" in values else {}
    flags = {
        name: values.pop(name)
        for name in (
            "final", "read", "write", "attr", "acknowledge", "overflow", "underflow", "status_present",
            "bidirectional_read_overflow", "bidirectional_read_underflow",
        )
        if name in values
    }  # fmt: skip
    layout: bytes = type(pdu).LAYOUT.build(
        values | {"byte_0": first, "flags": flags, "ahs": pdu.ahs, "data": pdu.data}
    )
    return layout


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    write=st.booleans(),
    long=st.booleans(),
    lun=st.sampled_from((1, 3)),
    lba=st.integers(0, BLOCKS - 1),
    blocks=st.integers(1, 8),
    tag=SERIALS,
    cmd_sn=SERIALS,
    stat_sn=SERIALS,
    attr=st.integers(0, 1),
)
def test_it_reads_and_writes_what_construct_describes(
    kernel: ModuleType,
    write: bool,
    long: bool,
    lun: int,
    lba: int,
    blocks: int,
    tag: int,
    cmd_sn: int,
    stat_sn: int,
    attr: int,
) -> None:
    rig = Rig(kernel)
    lba = min(lba, BLOCKS - blocks)
    request = built(command(write, lba, blocks, tag=tag, cmd_sn=cmd_sn, long=long, at=lun, attr=attr))
    after, exp_cmd_sn, data_in, taken = rig.take(request, cmd_sn, cmd_sn)
    data = bytes((tag & 0xFF,)) * (blocks * BLOCK) if write else None
    assert taken == [(lun << 48, tag, lba * BLOCK, blocks * BLOCK, data, 0)]
    assert (after, exp_cmd_sn) == (len(request), (cmd_sn + 1) & 0xFFFFFFFF)
    assert data_in == (0 if write else blocks * BLOCK)
    was = bytes(rig.memory[lba * BLOCK : (lba + blocks) * BLOCK])
    output, counts, (next_stat_sn, max_cmd_sn, *left), _, memory = rig.run(
        stat_sn, exp_cmd_sn, cmd_sn, data_in
    )
    numbers = {"stat_sn": stat_sn, "exp_cmd_sn": exp_cmd_sn, "max_cmd_sn": (cmd_sn + 1) & 0xFFFFFFFF}
    answer: Any
    if write:
        answer = ScsiResponse(response=0, status=0, initiator_task_tag=tag, **numbers)
        assert memory[lba * BLOCK : (lba + blocks) * BLOCK] == data
    else:
        answer = DataIn(
            final=True,
            status_present=True,
            lun=bytes((0, lun)) + bytes(6),
            initiator_task_tag=tag,
            data_sn=0,
            buffer_offset=0,
            data=was,
            **numbers,
        )
    assert output == built(answer)
    assert (counts, next_stat_sn, max_cmd_sn) == ([1], (stat_sn + 1) & 0xFFFFFFFF, numbers["max_cmd_sn"])
    assert left == [0, 0, 0]


NOT_TAKEN = {
    "not final": {"final": False},
    "ordered": {"attr": 2},
    "ACA": {"attr": 4},
    "immediate": {"immediate": True},
    "both directions": {"read": True, "write": True},
    "no direction": {"read": False, "write": False},
    "fewer bytes expected": {"expected_data_transfer_length": BLOCK},
    "more bytes expected": {"expected_data_transfer_length": 3 * BLOCK},
    "another LUN": {"lun": bytes((0, 9)) + bytes(6)},
    "a LUN of another kind": {"lun": bytes((0, 1, 0, 1)) + bytes(4)},
    "ahead of its turn": {"cmd_sn": 8},
    "behind its turn": {"cmd_sn": 6},
    "an additional header": {"ahs": bytes(8)},
    "FUA": {"cdb": bytes((0x28, 0x08)) + bytes(6) + b"\x02" + bytes(7)},
    "NACA": {"cdb": bytes((0x28, 0, 0, 0, 0, 0, 0, 0, 2, 4)) + bytes(6)},
    "READ (6)": {"cdb": bytes((0x08, 0, 0, 0, 2)) + bytes(11)},
    "no blocks": {
        "cdb": READ_10.build(lba=0, blocks=0).ljust(16, b"\0"),
        "expected_data_transfer_length": 0,
    },
    "beyond the end": {"cdb": READ_10.build(lba=BLOCKS - 1, blocks=2).ljust(16, b"\0")},
    "LBA beyond int64": {"cdb": READ_16.build(lba=2**64 - 1, blocks=2).ljust(16, b"\0")},
    "LBA that wraps int64": {"cdb": READ_16.build(lba=2**63 - 1, blocks=2).ljust(16, b"\0")},
    "longer than one PDU": {
        "cdb": READ_10.build(lba=0, blocks=9).ljust(16, b"\0"),
        "expected_data_transfer_length": 9 * BLOCK,
    },
    "longer than a command may be": {
        "cdb": READ_10.build(lba=0, blocks=17).ljust(16, b"\0"),
        "expected_data_transfer_length": 17 * BLOCK,
    },
    "data with a READ": {"data": bytes(512)},
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fields", NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_what_is_not_plain_is_left_alone(kernel: ModuleType, fields: dict[str, Any]) -> None:
    rig = Rig(kernel)
    good = built(command(False, 0, 2, cmd_sn=7))
    assert rig.take(good, 7, 20)[0] == 48
    rig = Rig(kernel)
    other = built(command(False, 0, 2, **fields))
    assert rig.take(other + good, 7, 20) == (0, 7, 0, [])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_write_is_taken_only_when_all_of_it_came_and_may_be_written(kernel: ModuleType) -> None:
    whole = built(command(True, 0, 2))
    assert Rig(kernel).take(whole[:-1], 7, 20)[0] == 0
    assert Rig(kernel).take(whole, 7, 20)[0] == len(whole)
    assert Rig(kernel).take(built(command(True, 0, 2, data=bytes(512))), 7, 20)[0] == 0
    assert Rig(kernel).take(built(command(True, 0, 9)), 7, 20)[0] == 0, "more than may come unsolicited"
    assert Rig(kernel).take(built(command(True, 0, 2, at=2)), 7, 20)[0] == 0, "read only"
    assert Rig(kernel).take(built(command(False, 0, 2, at=2)), 7, 20)[0] == 48
    rig = Rig(kernel)
    rig.look = (0, 0)
    assert rig.take(whole, 7, 20)[0] == 0, "something stands in the way"
    rig.look = (BLOCKS, BLOCKS)
    assert rig.take(whole, 7, 20)[0] == len(whole), "looked at anew with every batch"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_tag_in_use_and_a_closed_window_are_left_to_those_who_know(kernel: ModuleType) -> None:
    request = built(command(False, 0, 2))
    assert Rig(kernel).take(request, 7, 20, {5: None})[0] == 0
    assert Rig(kernel).take(request, 7, 6)[0] == 0
    assert Rig(kernel).take(request, 7, 7)[0] == 48


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_limit_of_data_in_stops_a_batch_and_the_rest_is_handed_back(kernel: ModuleType) -> None:
    rig = Rig(kernel)
    requests = [built(command(number == 2, 0, 2, tag=number, cmd_sn=7 + number)) for number in range(4)]
    source = b"".join(requests)
    after, exp_cmd_sn, data_in, _ = rig.take(source, 7, 20)
    assert (after, exp_cmd_sn, data_in) == (len(source), 11, 3 * 2 * BLOCK)
    _, counts, (stat_sn, max_cmd_sn, data_in, waiting, _), *_ = rig.run(0, 11, 20, 2 * 2 * BLOCK + 1)
    assert (counts, stat_sn, max_cmd_sn, data_in, waiting) == ([3], 3, 23, 2 * BLOCK, 1)
    ((where, start),) = rig.path.give_up()
    assert where is source
    assert start == len(source) - 48
    assert (rig.path.taken, rig.path.data_in_bytes) == ([], 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_was_never_written_is_read_through_the_store(kernel: ModuleType) -> None:
    rig = Rig(kernel)
    rig.marks[5] = 0
    pieces = {}
    for lba in (3, 4, 5, 6):  # two blocks each: 4 and 5 meet the granule
        rig.take(built(command(False, lba, 2, tag=lba, cmd_sn=lba)), lba, 20)
        output: list[Any] = []
        rig.path.run(output, 0, lba, 20, 2 * BLOCK)
        pieces[lba] = len(output) - 1
    assert pieces == {3: 1, 4: 2, 5: 2, 6: 1}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_medium_that_fails_leaves_its_command_to_the_general_path(kernel: ModuleType) -> None:
    rig = Rig(kernel)
    rig.fail_at = 4 * BLOCK
    source = b"".join(
        built(command(True, 2 * number, 2, tag=number, cmd_sn=7 + number)) for number in range(4)
    )
    rig.take(source, 7, 20)
    output, counts, (stat_sn, max_cmd_sn, _, waiting, failures), *_ = rig.run(0, 11, 20, 0)
    assert (len(output), counts, stat_sn, max_cmd_sn, waiting, failures) == (2 * 48, [2], 2, 22, 2, 1)
    assert [start for _, start in rig.path.give_up()] == [2 * len(source) // 4, 3 * len(source) // 4]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("data", [False, True])
def test_digests_are_checked_and_made(kernel: ModuleType, header: bool, data: bool) -> None:
    def with_digests(pdu: bytes) -> bytes:
        head, body = pdu[:48], pdu[48:]
        return head + (digest(head) if header else b"") + body + (digest(body) if data and body else b"")

    for write in (False, True):
        rig = Rig(kernel, header_digest=header, data_digest=data)
        request = with_digests(built(command(write, 3, 2)))
        after, *_ = rig.take(request, 7, 20)
        assert after == len(request)
        output, *_ = rig.run(0, 8, 20, 1 << 20)
        size = 0 if write else 2 * BLOCK
        head_end = 52 if header else 48
        assert not header or output[48:52] == digest(output[:48])
        assert len(output) == head_end + size + (4 if data and size else 0)
        assert not (data and size) or output[-4:] == digest(output[head_end:-4])
        spoilt = [48] * header + [len(request) - 1] * (write and data)
        for position in spoilt:
            bad = bytearray(request)
            bad[position] ^= 1
            assert Rig(kernel, header_digest=header, data_digest=data).take(bytes(bad), 7, 20)[0] == 0


def test_partial_formats_refuse_what_the_description_does_not_have() -> None:
    for wanted in (("lun", "flags"), (("flags", "lun"),), ("nothing",), (("total_ahs_length",), "cdb")):
        with pytest.raises(UnknownConstruct):
            partial_format(ScsiCommandPdu, *wanted)


@pytest.mark.skipif(
    not fast_path_kernel.COMPILED, reason="the kernel is not compiled: there are no twins to compare"
)
@settings(max_examples=300)
@given(
    commands=st.lists(
        st.tuples(
            st.booleans(),
            st.one_of(
                st.integers(0, BLOCKS - 8),
                st.integers(BLOCKS - 4, BLOCKS + 1),
                st.sampled_from((2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)),
            ),
            st.one_of(st.integers(1, 4), st.integers(0, 18)),
            SERIALS,
            st.booleans(),
            st.sampled_from((1, 1, 1, 2, 3, 4)),
        ),
        min_size=1,
        max_size=8,
    ),
    spoil=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=2),
    cut=st.integers(0, 60),
    first_cmd_sn=SERIALS,
    stat_sn=SERIALS,
    window=st.integers(0, 9),
    limit=st.integers(0, 10 * BLOCK),
    header_digest=st.booleans(),
    data_digest=st.booleans(),
)
def test_compiled_and_plain_agree_on_everything(
    commands: list[tuple[bool, int, int, int, bool, int]],
    spoil: list[tuple[int, int]],
    cut: int,
    first_cmd_sn: int,
    stat_sn: int,
    window: int,
    limit: int,
    header_digest: bool,
    data_digest: bool,
) -> None:
    stream = bytearray()
    for number, (write, lba, blocks, tag, long, lun) in enumerate(commands):
        cmd_sn = (first_cmd_sn + number) & 0xFFFFFFFF
        wide = long or lba >= 1 << 32
        pdu = built(command(write, lba, blocks, tag=tag, cmd_sn=cmd_sn, long=wide, at=lun))
        stream += pdu[:48] + (digest(pdu[:48]) if header_digest else b"") + pdu[48:]
        if data_digest and pdu[48:]:
            stream += digest(pdu[48:])
    for position, value in spoil:
        stream[position % len(stream)] = value
    source = bytes(stream[: len(stream) - cut if cut < len(stream) else None])
    told = []
    for kernel in (PLAIN, fast_path_kernel):
        rig = Rig(kernel, header_digest=header_digest, data_digest=data_digest)
        max_cmd_sn = (first_cmd_sn + window) & 0xFFFFFFFF
        taken = rig.take(source, first_cmd_sn, max_cmd_sn)
        ran = rig.run(stat_sn, taken[1], max_cmd_sn, limit)
        told.append((taken, ran, [start for _, start in rig.path.give_up()]))
    assert told[0] == told[1]


@pytest.mark.skipif(
    not fast_path_kernel.COMPILED, reason="the kernel is not compiled: there are no twins to compare"
)
@pytest.mark.parametrize("start", [-1, 49, 1 << 40])
def test_a_place_outside_the_source_reaches_no_memory(start: int) -> None:
    source = built(command(False, 0, 2))
    with pytest.raises(IndexError):
        Rig(fast_path_kernel).path.take(source, start, start + 48, {}, 7, 20)
