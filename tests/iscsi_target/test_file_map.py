"""Memory that is also a file, and what the server sends from it without a copy."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from iscsi_target.file_map import FileMap, place_in_file
from iscsi_target.server_connection import ServerConnection


def sending(sock: socket.socket, *, data_digest: bool = False) -> ServerConnection:
    """The writing half of a connection alone."""
    connection: Any = object.__new__(ServerConnection)
    connection._sock = sock
    connection.wire = None
    connection.core = SimpleNamespace(data_digest=data_digest)
    connection._handed_over = 0
    made: ServerConnection = connection
    return made


def drained(receiver: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += receiver.recv(count - len(data))
    return data


@pytest.fixture
def ends() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
        with sender, receiver:
            sender.setblocking(False)
            receiver.settimeout(60)
            yield sender, receiver


def test_a_view_of_a_map_is_found_in_its_file() -> None:
    view = memoryview(FileMap(1 << 20))
    view[70_000:70_004] = b"here"
    place = place_in_file(view[70_000:])
    assert place is not None
    assert os.pread(place[0], 4, place[1]) == b"here"
    assert place[1] == 70_000


@pytest.mark.parametrize("other", [b"bytes", bytearray(9), memoryview(b"x"), memoryview(bytearray(9))])
def test_other_buffers_are_in_no_file(other: Any) -> None:
    assert place_in_file(other) is None


def test_the_file_goes_with_the_last_view() -> None:
    made = FileMap(4096)
    descriptor, view = made.descriptor, memoryview(made)
    del made
    os.fstat(descriptor)
    view.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_pages_given_back_read_as_zeros_and_take_no_memory() -> None:
    made = FileMap(1 << 20)
    memoryview(made)[:] = b"x" * (1 << 20)
    made.give_back(0, 1 << 19)
    assert os.fstat(made.descriptor).st_blocks * 512 == 1 << 19
    assert bytes(made[: 1 << 19]) == bytes(1 << 19)


@pytest.mark.parametrize("data_digest", [False, True])
def test_headers_and_memory_arrive_in_order_whatever_the_kernel_takes_at_once(
    ends: tuple[socket.socket, socket.socket], data_digest: bool
) -> None:
    sender, receiver = ends
    memory = memoryview(FileMap(8 << 20))
    memory[:] = os.urandom(8 << 20)
    buffers = [b"first", memory[100:3_000_000], b"second", bytearray(b"third"), memory[5 << 20 :], b"last"]
    whole = b"".join(map(bytes, buffers))
    connection = sending(sender, data_digest=data_digest)
    rest: Any = list(buffers)
    got = b""
    turns = 0
    while rest:
        rest = connection._write(rest, sum(map(len, rest)))
        handed_over = connection._handed_over
        assert handed_over + sum(map(len, rest)) == len(whole)
        got += drained(receiver, handed_over - len(got))
        turns += 1
    assert got == whole
    assert turns > 1, "the socket took everything at once: this tried nothing"


def test_without_a_data_digest_the_bytes_are_those_of_the_moment_they_are_read(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = ends
    memory = memoryview(FileMap(1 << 17))
    memory[:] = b"a" * (1 << 17)
    assert sending(sender)._write([memory], 1 << 17) == []
    memory[:] = b"b" * (1 << 17)
    assert b"b" in drained(receiver, 1 << 17), "sent by reference, not copied"


def test_with_a_data_digest_the_bytes_are_those_of_the_moment_they_were_sent(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = ends
    memory = memoryview(FileMap(1 << 17))
    memory[:] = b"a" * (1 << 17)
    assert sending(sender, data_digest=True)._write([memory], 1 << 17) == []
    memory[:] = b"b" * (1 << 17)
    assert drained(receiver, 1 << 17) == b"a" * (1 << 17)
