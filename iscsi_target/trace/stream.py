# SPDX-License-Identifier: Apache-2.0
"""One TCP connection as captures show it: its ends, and how far each direction has come."""

from __future__ import annotations

from collections.abc import Iterator

from iscsi_target.buffers import ConnectionInfo
from iscsi_target.faults.matching import Direction
from iscsi_target.trace.segments import ACK, FIN, LARGEST_PAYLOAD_BYTES, PSH, RST, SYN, Endpoint, tcp_packet


class TcpStream:
    """Sequence numbers are those of a connection whose first byte in each direction is number 1."""

    def __init__(self, info: ConnectionInfo) -> None:
        self._target = Endpoint(info.local_host, info.local_port)
        self._initiator = Endpoint(info.peer_host, info.peer_port)
        self._bytes = {Direction.TO_TARGET: 0, Direction.TO_INITIATOR: 0}
        self._remarks: list[str] = []

    @property
    def begun(self) -> bool:
        """Whether any byte has passed."""
        return any(self._bytes.values())

    def passed(self, direction: Direction, count: int) -> None:
        """Bytes went by without being captured."""
        self._bytes[direction] += count

    def remark(self, text: str) -> None:
        """Something that happened without a packet (a PDU was dropped); the next packet says it."""
        self._remarks = [*self._remarks[-15:], text]

    def take_remarks(self) -> str:
        """What has been remarked since the last time."""
        remarks, self._remarks = self._remarks, []
        return "; ".join(f"before this: {text}" for text in remarks)

    def handshake(self) -> Iterator[bytes]:
        """SYN, SYN-ACK, ACK."""
        yield tcp_packet(self._initiator, self._target, 0, 0, SYN)
        yield tcp_packet(self._target, self._initiator, 0, 1, SYN | ACK)
        yield tcp_packet(self._initiator, self._target, 1, 1, ACK)

    def segments(self, direction: Direction, data: bytes) -> Iterator[bytes]:
        """The next bytes of a direction, as packets."""
        for at in range(0, len(data), LARGEST_PAYLOAD_BYTES):
            piece = data[at : at + LARGEST_PAYLOAD_BYTES]
            last = at + len(piece) == len(data)
            yield self._packet(direction, ACK | PSH if last else ACK, piece, self._bytes[direction] + at)

    def end(self, *, reset: bool) -> Iterator[bytes]:
        """The target's last packet: FIN or RST."""
        direction = Direction.TO_INITIATOR
        yield self._packet(direction, (RST if reset else FIN) | ACK, b"", self._bytes[direction])

    def _packet(self, direction: Direction, flags: int, payload: bytes, position: int) -> bytes:
        if direction is Direction.TO_TARGET:
            source, destination, other = self._initiator, self._target, Direction.TO_INITIATOR
        else:
            source, destination, other = self._target, self._initiator, Direction.TO_TARGET
        return tcp_packet(source, destination, 1 + position, 1 + self._bytes[other], flags, payload)
