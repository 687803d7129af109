# cython: boundscheck=True, wraparound=False, cdivision=False, initializedcheck=False, annotation_typing=False
# cython: infer_types=True, language_level=3
"""The table as it is written: rows into parts of bounded size, and remarks on what is wrong in the capture.

Compiled by Cython where a compiler is at hand (types in the .pxd beside), plain Python where not; the same code.
"""

from __future__ import annotations

from array import array

from tools.capture import rows

COMPILED = not __file__.endswith(".py")

# Typed copies: a module's own constants would be looked up by name in compiled code.
ROW_BYTES, ROW_WORDS, HEADER_AT = rows.ROW_BYTES, rows.ROW_WORDS, rows.HEADER_AT
TABLE_ROWS, KEPT_TABLE = rows.TABLE_ROWS, rows.KEPT_TABLE_BYTES
REMARK_LIMIT = 1000


class Rows:
    """A table that grows row by row."""

    def __init__(self) -> None:
        self.data = b""
        self.view = memoryview(b"")
        self.base = self.now = self.packet = self.interface = self.way = self.place = self.rows = 0
        self.ready: list[rows.Part] = []
        self.remarks: list[tuple[int, int, str]] = []
        self.remarked: dict[str, int] = {}
        self._new_part()

    def _new_part(self) -> None:
        self.words = array("q", bytes(TABLE_ROWS * ROW_BYTES))
        self.words_of_part = self.words
        self.octets = memoryview(self.words_of_part).cast("B")
        self.kept: list[bytes] = []
        self.kept_bytes = 0
        self.count = 0

    def take(self) -> list[rows.Part]:
        """The parts of the table that are ready; what is ready is forgotten here."""
        done, self.ready = self.ready, []
        return done

    def finish_part(self) -> int:
        """Make the rows so far a part of their own; how many they were."""
        count = self.count
        if count:
            self.ready.append(rows.Part(self.words_of_part, count, self.kept, self.rows - count))
            self._new_part()
        return count

    def remark(self, what: str, offset: int) -> int:
        """Something is wrong in the capture, at this packet; ``offset`` in the file, -1: where the packet begins."""
        if offset < 0:
            offset = self.place
        self.remarked[what] = self.remarked.get(what, 0) + 1
        if len(self.remarks) < REMARK_LIMIT:
            self.remarks.append((self.packet, offset, what))
        return 0

    def row(self, begin: int, offset: int, flow: int, length: int, kind: int, notes: int) -> int:
        """Begin a row; the index of its first byte. The header is the caller's to fill in."""
        if self.count == TABLE_ROWS or self.kept_bytes > KEPT_TABLE:
            self.finish_part()
        at = self.count * ROW_WORDS
        words = self.words
        words[at] = self.now
        words[at + 1] = begin
        words[at + 2] = offset
        words[at + 3] = self.packet | flow << 32
        words[at + 4] = length | kind << 32 | notes << 56
        words[at + 5] = self.interface | self.way << 16
        self.count += 1
        self.rows += 1
        return at * 8 + HEADER_AT

    def keep_bytes(self, whole: bytes) -> int:
        """Keep a PDU or frame with the latest row."""
        self.kept.append(whole)
        self.kept_bytes += len(whole)
        self.words[(self.count - 1) * ROW_WORDS + 5] |= len(self.kept) << 32
        return 0
