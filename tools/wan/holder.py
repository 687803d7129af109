"""The process that holds a channel: it makes the two sites, moves the packets, answers the control sockets.

Started by :class:`tools.wan.channel.Channel` as ``python -m tools.wan.holder FD``, where FD is a Unix socket. The
first line on it is the settings; the answer carries the descriptors of the namespaces. From then on the same socket
is a control socket and a lifeline: when its other end is gone, however that came about, this process kills what still
runs inside the sites, removes its control socket and ends. With it the namespaces vanish.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tools.wan.control import (
    LINE_LIMIT_BYTES,
    HoldRequest,
    SetRequest,
    decode_request,
    encode,
    through_directory,
)
from tools.wan.emulator import Backend, TunEmulator
from tools.wan.enter import die_with_parent
from tools.wan.errors import BadSetting, ChannelUnavailable
from tools.wan.interfaces import set_sysctls
from tools.wan.loop import Loop
from tools.wan.settings import ChannelSettings
from tools.wan.sites import SITES, Namespaces, kill_all_inside, make_namespaces

CLIENT_LIMIT = 8
FIRST_LINE_LIMIT_BYTES = 64 * 1024
_BACKLOG = 64  # a Unix socket turns a client away at once when its queue is full


def choose_backend(namespaces: Namespaces, settings: ChannelSettings) -> tuple[str, str, Backend]:
    """Make the packets' way: (kind, note, backend). ``auto`` prefers netem; raises :class:`ChannelUnavailable`."""
    note = ""
    if settings.kind in ("auto", "netem"):
        from tools.wan.netem import NetemLink

        try:
            return "netem", "veth pair with netem at both ends", NetemLink(namespaces, settings)
        except ChannelUnavailable as unavailable:
            if settings.kind == "netem":
                raise
            note = f" (no netem: {unavailable.reason})"
    return "tun", f"TUN emulator{note}", TunEmulator(namespaces, settings)


class Holder:
    """The channel's process: settings in force, backend, control connections."""

    def __init__(self, settings: ChannelSettings, lifeline: socket.socket, control_path: Path | None) -> None:
        self._settings = settings
        self._namespaces = make_namespaces()
        self._kind, self._note, self._backend = choose_backend(self._namespaces, settings)
        for site in SITES:
            self._namespaces.enter(site)
            try:
                set_sysctls(settings.tcp_sysctls())
            except OSError as error:
                raise ChannelUnavailable(
                    f"cannot set {error.filename} in the {site} site: {error.strerror}",
                    "leave it out of sysctls, or run as root",
                ) from None
        self._loop = Loop(self._backend.turn)
        self._backend.attach(self._loop)
        self._lifeline = lifeline
        self._buffers: dict[int, bytearray] = {}
        self._control_path = control_path
        self._listener: socket.socket | None = None
        if control_path is not None:
            self._listener = self._listen(control_path)
        self._serve(lifeline)

    def announce(self) -> None:
        """Tell the parent that the channel is ready, with the namespaces' descriptors."""
        namespaces = self._namespaces
        descriptors = [namespaces.master_fd, namespaces.remote_fd]
        if namespaces.user_fd is not None:
            descriptors.append(namespaces.user_fd)
        ready = encode({"ok": True, "kind": self._kind, "note": self._note})
        with contextlib.suppress(OSError):  # the parent is gone already: run() will see it
            socket.send_fds(self._lifeline, [ready], descriptors)
        self._lifeline.setblocking(False)

    def run(self) -> None:
        """Until the parent is gone or SIGTERM comes; then leave nothing behind."""
        try:
            self._loop.run()
        finally:
            if self._listener is not None and self._control_path is not None:
                self._control_path.unlink(missing_ok=True)
            kill_all_inside([self._namespaces.master_fd, self._namespaces.remote_fd])

    def _listen(self, path: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory, name = through_directory(path)
        before = os.umask(0o177)
        try:
            listener.bind(name)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise BadSetting(f"cannot make the control socket {path}: {error.strerror}") from None
        finally:
            os.umask(before)
            os.close(directory)
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), lambda: self._accept(listener))
        return listener

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _address = listener.accept()
        except OSError:  # it went away again
            return
        if len(self._buffers) > CLIENT_LIMIT:  # the lifeline is one more
            client.close()
            return
        client.setblocking(False)
        self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        self._buffers[client.fileno()] = bytearray()
        self._loop.watch(client.fileno(), lambda: self._read(client))

    def _hang_up(self, client: socket.socket) -> None:
        self._loop.forget(client.fileno())
        del self._buffers[client.fileno()]
        client.close()
        if client is self._lifeline:
            self._loop.stop()

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(LINE_LIMIT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer = self._buffers[client.fileno()]
        buffer += data
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        if not data or len(rest) > LINE_LIMIT_BYTES:
            self._hang_up(client)
            return
        for line in lines:
            try:
                client.sendall(encode(self._answer(line)))
            except OSError:  # it does not read its answers, or is gone
                self._hang_up(client)
                return

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = decode_request(line)
            if isinstance(request, HoldRequest):
                self._backend.hold(request)
            elif isinstance(request, SetRequest):
                wanted = self._settings.changed(
                    bandwidth_bps=request.bandwidth_bps,
                    rtt_ns=request.rtt_ns,
                    queue_bytes=request.queue_bytes,
                    loss_ppm=request.loss_ppm,
                )
                self._backend.set(wanted)
                self._settings = wanted
        except (BadSetting, ChannelUnavailable) as error:
            return {"ok": False, "error": str(error)}
        return {"ok": True, "status": self._status()}

    def _status(self) -> dict[str, Any]:
        forward, _back = self._settings.links()
        return {
            "kind": self._kind,
            "note": self._note,
            "bandwidth_bps": self._settings.bandwidth_bps,
            "rtt_ns": self._settings.rtt_ns,
            "queue_bytes": forward.queue_bytes,
            "loss_ppm": self._settings.loss_ppm,
            "cpu_ns": time.process_time_ns(),
            "directions": self._backend.counters(),
        }


def _first_line(lifeline: socket.socket) -> dict[str, Any] | None:
    """What the parent wants; None where it is gone already."""
    data = bytearray()
    while not data.endswith(b"\n") and len(data) <= FIRST_LINE_LIMIT_BYTES:
        chunk = lifeline.recv(FIRST_LINE_LIMIT_BYTES)
        if not chunk:
            return None
        data += chunk
    message = json.loads(data)
    assert isinstance(message, dict)  # our own parent wrote it
    return message


def main(lifeline_fd: int) -> int:
    """Hold a channel until the parent is gone; exit status 1: it could not be made (the parent knows why)."""
    with socket.socket(fileno=lifeline_fd) as lifeline:
        message = _first_line(lifeline)
        if message is None:
            return 1
        die_with_parent(message["parent_pid"], signal.SIGTERM)  # not SIGKILL: what is inside must be swept
        control_path = message["control_path"]
        try:
            holder = Holder(
                ChannelSettings.from_json(message["settings"]),
                lifeline,
                Path(control_path) if control_path is not None else None,
            )
        except ChannelUnavailable as unavailable:
            failure = {"ok": False, "reason": unavailable.reason, "fix": unavailable.fix}
        except BadSetting as error:
            failure = {"ok": False, "error": str(error)}
        else:
            holder.announce()
            holder.run()
            return 0
        with contextlib.suppress(OSError):  # nobody is left to be told
            lifeline.sendall(encode(failure))
        return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
