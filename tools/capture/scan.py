"""Captures scanned: files, compressed files and pipes in one pass, part by part (:mod:`tools.capture.rows`).

Plain files, gzip, zstd and pipes are read in blocks. Memory does not grow with the file: a part has at most 8192 rows.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tools.capture.rows import Part
from tools.capture.scan_kernel import Scanner

BLOCK_BYTES = 4 << 20
"""How much of a stream is decompressed at a time."""
PLAIN_BYTES = 1 << 20
"""How much of a plain file is looked at at a time: it stays in the processor's cache."""
_WINDOW_LIMIT_BYTES = 40 << 20
"""More than the longest record and its successor: a stream that brings no record in so much is given up."""
if TYPE_CHECKING:
    from tools.capture.live import LiveSource

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class CaptureError(Exception):
    """A capture cannot be read at all; the text says which and why."""


class Scan:
    """One pass over files, in the order given: connections go on from one file to the next, as rotated captures do.

    ``ports``: TCP ports on which iSCSI is expected; empty: wherever it is recognised, and on 3260. ``keep_all``: keep
    every PDU and frame whole with its row. ``live``: a capture under way, read after the files (if any).
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        *,
        ports: Sequence[int] = (),
        keep_all: bool = False,
        live: LiveSource | None = None,
    ) -> None:
        self.live = live
        self.paths = [Path(path) for path in paths]
        self.scanner = Scanner(tuple(ports), keep_all)
        if not ports:
            self.scanner.ports = frozenset((3260,))
        self.sizes: list[int] = []
        self.sources: list[tuple[str, int]] = []
        """Each file with the number of the first packet in it."""

    def parts(self) -> Iterator[Part]:
        """The table, part by part. Raises :class:`CaptureError` for a file that cannot be opened or is no capture.

        What is damaged inside of a capture raises nothing: ``scanner.remarks`` says where it is.
        """
        scanner = self.scanner
        for path in self.paths:
            self.sources.append((str(path), scanner.packet + 1))
            scanner.begin()
            packets, remarks = scanner.packet, len(scanner.remarks)
            try:
                yield from self._file(path)
            except OSError as error:
                raise CaptureError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
            except (EOFError, zlib.error) as error:
                scanner.remark(f"the compressed file is damaged: {str(error).lower()}", scanner.base)
            if scanner.packet == packets and any(
                "neither" in what for _, _, what in scanner.remarks[remarks:]
            ):
                raise CaptureError(f"{path} is neither a pcapng nor a pcap file")
        if self.live is not None:
            self.sources.append((self.live.config.interface, scanner.packet + 1))
            scanner.begin()
            yield from self._live(self.live)
        scanner.end()
        yield from scanner.take()

    def _live(self, live: LiveSource) -> Iterator[Part]:
        """What comes in, turn by turn: rows are shown as soon as they are complete."""
        scanner = self.scanner
        base = 0
        for window in live.blocks():
            at = 0
            while at < len(window):
                at = scanner.feed(window, at, len(window), base, False)
                yield from scanner.take()
            base += at
            scanner.finish_part()
            yield from scanner.take()

    def run(self) -> Scanner:
        """Only the figures: no table is written."""
        self.scanner.figures_only = 1
        for _ in self.parts():
            pass
        return self.scanner

    def _file(self, path: Path) -> Iterator[Part]:
        if str(path) == "-":
            yield from self._stream(sys.stdin.buffer)
            return
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.sizes.append(size)
            magic = file.read(4)
            file.seek(0) if file.seekable() else None
            if magic[:2] == _GZIP:
                import gzip

                with gzip.open(file) as stream:
                    yield from self._stream(stream)
            elif magic == _ZSTD:
                with _zstd(file) as stream:
                    yield from self._stream(stream)
            elif not file.seekable():
                yield from self._stream(file, magic)
            elif size:
                yield from self._plain(file, size)
            else:
                raise CaptureError(f"{path} is empty")

    def _plain(self, file: BinaryIO, size: int) -> Iterator[Part]:
        """The first ``size`` bytes of a file, block by block in one place: to copy one takes the kernel less than to
        map its pages, and it is in the processor's cache then."""
        scanner = self.scanner
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        window = bytearray(min(size, PLAIN_BYTES))
        base = held = 0
        while base < size:
            got = os.preadv(file.fileno(), [memoryview(window)[held : size - base]], base + held)
            held += got
            final = not got or base + held == size
            at = 0
            while at < held:
                before = at
                at = scanner.feed(window, at, held, base, final)
                ready = scanner.take()
                yield from ready
                if at == before and not ready:
                    break
            if final:
                break
            base += at
            held -= at
            if held == len(window):
                if held >= _WINDOW_LIMIT_BYTES:
                    scanner.remark("no record ends within 40 MiB: the rest of the file is given up", base)
                    break
                window += bytes(held)
            else:
                window[:held] = window[at : at + held]

    def _stream(self, stream: Any, begun: bytes = b"") -> Iterator[Part]:
        """Blocks of a stream: what is left of one is put before the next."""
        scanner = self.scanner
        window = bytes(begun)
        base = 0
        damaged: Exception | None = None
        while True:
            try:
                block = stream.read(BLOCK_BYTES)
            except (OSError, EOFError, zlib.error, _zstd_error()) as error:
                damaged, block = error, b""
            window += block
            final = not block
            at = 0
            while at < len(window):
                before = at
                at = scanner.feed(window, at, len(window), base, final)
                ready = scanner.take()
                yield from ready
                if at == before and not ready:
                    break
            window = window[at:]
            base += at
            if len(window) > _WINDOW_LIMIT_BYTES:
                scanner.remark("no record ends within 40 MiB: the rest of the file is given up", base)
                return
            if final:
                break
        expected = getattr(stream, "expected_bytes", 0)
        if damaged is None and base + len(window) < expected:
            damaged = EOFError(f"{expected} bytes were in it, {base + len(window)} came out")
        if damaged is not None:
            said = " ".join(str(damaged).lower().split())
            scanner.remark(f"the compressed file is damaged: {said}", base)


def _zstd_error() -> type[Exception]:
    module = sys.modules.get("zstandard")
    found: type[Exception] = getattr(module, "ZstdError", EOFError)
    return found


def _zstd(file: BinaryIO) -> Any:
    try:
        zstandard = importlib.import_module("zstandard")
    except ModuleNotFoundError as error:
        raise CaptureError(
            "a .zst file needs the library zstandard: pip install 'sancredit[capture]'"
        ) from error
    head = file.read(18)
    file.seek(0)
    stream = _ZstdStream(
        zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_across_frames=True),
        1 << 16,
    )
    size = zstandard.frame_content_size(head)
    stream.expected_bytes = size if 0 < size < 1 << 62 else 0
    return stream


class _ZstdStream(io.BufferedReader):
    """``expected_bytes``: what its first frame says to hold; a reader of zstandard tells nobody of a cut frame."""

    expected_bytes = 0
