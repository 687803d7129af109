"""A channel between two sites, to run programs at either end of.

::

    with Channel.open(bandwidth_bps=100_000_000, rtt_ns=20_000_000) as channel:
        server = channel.popen("remote", ["sancredit", "array", "serve", …])
        channel.set(rtt_ns=40_000_000)
        print(channel.status())

Real TCP runs end to end through it. Sites are network namespaces: a program inside sees the loopback and the channel,
nothing else of the machine's network; files and Unix sockets with a path are shared, so that is how to talk to it.
What was started inside ends with the channel, and the channel ends with the process that opened it, even by SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.wan.control import ANSWER_LIMIT_BYTES, encode, read_line, status_of
from tools.wan.errors import BadSetting, ChannelFailed, ChannelUnavailable
from tools.wan.interfaces import INTERFACE
from tools.wan.settings import ChannelSettings
from tools.wan.sites import SITES, kill_all_inside

CONTROL_SOCKET = "channel.sock"
START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 10.0
TERM_GRACE_S = 3.0
"""How long :meth:`Channel.close` waits between SIGTERM and SIGKILL."""
_ENTER = Path(__file__).with_name("enter.py")
_PROJECT = Path(__file__).resolve().parents[2]
_LOOPBACK_ADDRESSES = ("127.0.0.1", "127.0.0.2")
_TAKEN_OVER = ("shell", "executable", "preexec_fn", "user", "group", "extra_groups", "process_group")


class _Holding:
    """The parent's end of a holder process: its socket, its namespaces' descriptors."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        lifeline: socket.socket,
        descriptors: list[int],
        ready: dict[str, Any],
    ) -> None:
        self.process = process
        self.lifeline = lifeline
        self.descriptors = descriptors
        self.ready = ready
        self._asking = threading.Lock()

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        with self._asking:
            try:
                self.lifeline.sendall(encode(message))
                answer = read_line(self.lifeline)
            except OSError as error:
                raise ChannelFailed(f"the channel's process is gone: {error.strerror}") from None
            except ChannelFailed:
                self.hang_up()  # a late answer must not be taken for that of the next question
                raise
        return status_of(answer)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):  # the other end may have gone first
            self.lifeline.shutdown(socket.SHUT_RDWR)  # unlike close, this reaches past copies made by a fork

    def end(self) -> None:
        self.hang_up()
        self.lifeline.close()
        _end_process(self.process, time.monotonic() + START_TIMEOUT_S)
        if self.process.returncode:  # it was killed, and so could not end what runs inside
            kill_all_inside(self.descriptors[: len(SITES)])
        for descriptor in self.descriptors:
            os.close(descriptor)


def _popen(argv: Sequence[str], arguments: Mapping[str, Any]) -> subprocess.Popen[Any]:
    return subprocess.Popen(argv, **arguments)


def _end_process(process: subprocess.Popen[Any], deadline: float) -> None:
    """Wait for its end until ``deadline`` (monotonic seconds), then kill it."""
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _hold(settings: ChannelSettings, control_path: Path | None, spawn: Callable[..., Any]) -> _Holding:
    """Start the holder and wait until the channel stands; raises what it says."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        path = os.pathsep.join(filter(None, (str(_PROJECT), os.environ.get("PYTHONPATH"))))
        try:
            process = spawn(
                [sys.executable, "-m", "tools.wan.holder", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # a Ctrl-C is the parent's to handle
            )
        except OSError:
            ours.close()
            raise
    ours.settimeout(START_TIMEOUT_S)
    descriptors: list[int] = []
    try:
        first = {
            "settings": settings.to_json(),
            "parent_pid": os.getpid(),
            "control_path": str(control_path) if control_path is not None else None,
        }
        try:
            ours.sendall(encode(first))
            data, descriptors, _flags, _address = socket.recv_fds(ours, ANSWER_LIMIT_BYTES, 3)
        except OSError as error:
            raise ChannelFailed(f"the channel's process did not start: {error}") from None
        if not data:
            raise ChannelFailed("the channel's process ended before it was ready; its reason is on stderr")
        ready = _decoded_ready(data)
    except BaseException:
        _Holding(process, ours, descriptors, {}).end()
        raise
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    ours.settimeout(ANSWER_TIMEOUT_S)
    return _Holding(process, ours, descriptors, ready)


def _decoded_ready(data: bytes) -> dict[str, Any]:
    import json

    ready = json.loads(data)
    assert isinstance(ready, dict)  # our own holder wrote it
    if ready.get("ok"):
        return ready
    if "reason" in ready:
        raise ChannelUnavailable(ready["reason"], ready["fix"])
    raise BadSetting(str(ready.get("error")))


class Channel:
    """An open channel; see the module. Use :meth:`open` and a ``with`` statement. :meth:`popen`, :meth:`set` and
    :meth:`status` may be called from any thread.

    ``kind`` is ``netem``, ``tun`` or ``loopback``; ``note`` says in one line how the channel is made, and what is
    missing; ``interface`` is the channel's interface in both sites (for a capture); ``settings`` what was asked for.
    """

    def __init__(
        self,
        settings: ChannelSettings,
        spawner: ThreadPoolExecutor,
        holding: _Holding | None,
        note: str,
        control: Path | None,
    ) -> None:
        self.settings = settings
        self._spawner = spawner
        self._holding = holding
        self._children: list[subprocess.Popen[Any]] = []
        self._closed = False
        self.kind: str = holding.ready["kind"] if holding is not None else "loopback"
        self.note = note
        self.control_path = control
        self.interface = INTERFACE if holding is not None else "lo"
        if holding is not None:
            self.master_addresses = tuple(str(address.ip) for address in settings.interfaces("master"))
            self.remote_addresses = tuple(str(address.ip) for address in settings.interfaces("remote"))
        else:
            self.master_addresses, self.remote_addresses = ((address,) for address in _LOOPBACK_ADDRESSES)

    @classmethod
    def open(
        cls,
        kind: str = "auto",
        *,
        bandwidth_bps: int,
        rtt_ns: int,
        queue_bytes: int | None = None,
        mtu: int = 1500,
        overhead_bytes: int = 0,
        loss_ppm: int = 0,
        loss_seed: int = 0,
        master_addresses: Sequence[str] = ("10.99.0.1/30",),
        remote_addresses: Sequence[str] = ("10.99.0.2/30",),
        sysctls: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> Self:
        """Make a channel; the parameters are those of :class:`tools.wan.settings.ChannelSettings`.

        ``kind`` ``auto`` takes netem where the kernel has it, else the TUN emulator, else plain loopback (``note`` says
        so). With ``directory`` (which must exist) a control socket ``channel.sock``, mode 0600, is made in it
        (:mod:`tools.wan.control`). Raises :class:`BadSetting`, :class:`ChannelUnavailable`, :class:`ChannelFailed`.
        """
        settings = ChannelSettings(
            kind=kind,
            bandwidth_bps=bandwidth_bps,
            rtt_ns=rtt_ns,
            queue_bytes=queue_bytes,
            mtu=mtu,
            overhead_bytes=overhead_bytes,
            loss_ppm=loss_ppm,
            loss_seed=loss_seed,
            master_addresses=tuple(master_addresses),
            remote_addresses=tuple(remote_addresses),
            sysctls=dict(sysctls or {}),
        )
        control = directory.absolute() / CONTROL_SOCKET if directory is not None else None
        # PR_SET_PDEATHSIG is about the parent's thread: this one lives until close.
        spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="channel-spawner")

        def spawn(argv: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
            return spawner.submit(_popen, argv, popen).result()

        try:
            if kind == "loopback":
                return cls(settings, spawner, None, "plain loopback, as asked: no rate, no delay", None)
            try:
                holding = _hold(settings, control, spawn)
            except ChannelUnavailable as unavailable:
                if kind != "auto":
                    raise
                note = f"plain loopback, so no rate and no delay: {unavailable}"
                return cls(settings, spawner, None, note, None)
            return cls(settings, spawner, holding, holding.ready["note"], control)
        except BaseException:
            spawner.shutdown()
            raise

    @property
    def master_address(self) -> str:
        """The first address of the master site."""
        return self.master_addresses[0]

    @property
    def remote_address(self) -> str:
        """The first address of the remote site."""
        return self.remote_addresses[0]

    def payload_limit_bps(self) -> int:
        """What TCP over IPv4 with timestamps can carry: rate * (MTU - 52) / MTU, at the rate in force."""
        return self.settings.bandwidth_bps * (self.settings.mtu - 52) // self.settings.mtu

    def popen(
        self, site: str, argv: Sequence[str | os.PathLike[str]], **popen_kwargs: Any
    ) -> subprocess.Popen[Any]:
        """Run a program inside a site (``master`` or ``remote``); arguments as for :class:`subprocess.Popen`.

        The process is the program itself (same pid, signals and exit status). It is killed when this process dies.
        Raises :class:`BadSetting`, :class:`FileNotFoundError` where there is no such program, :class:`ChannelFailed`.
        """
        if site not in SITES:
            raise BadSetting(f"the site is {site!r}, but must be one of {', '.join(SITES)}")
        if isinstance(argv, (str, bytes)) or not argv:
            raise BadSetting("argv must be a list: program and arguments")
        for name in _TAKEN_OVER:
            if popen_kwargs.get(name):
                raise BadSetting(f"{name} cannot be used inside a site")
        if self._closed:
            raise ChannelFailed("the channel is closed")
        words = [os.fspath(word) for word in argv]
        environment = popen_kwargs.get("env") or os.environ
        if "cwd" not in popen_kwargs and shutil.which(words[0], path=environment.get("PATH")) is None:
            raise FileNotFoundError(f"there is no program {words[0]}")
        user = net = "-"
        descriptors: list[int] = []
        if self._holding is not None:
            master_fd, remote_fd, *user_fds = self._holding.descriptors
            descriptors = [master_fd if site == "master" else remote_fd, *user_fds]
            net, user = str(descriptors[0]), (str(user_fds[0]) if user_fds else "-")
        popen_kwargs["pass_fds"] = [*popen_kwargs.get("pass_fds", ()), *descriptors]
        wrapper = [sys.executable, "-I", "-S", str(_ENTER), str(os.getpid()), user, net]
        child = self._spawner.submit(_popen, [*wrapper, *words], popen_kwargs).result()
        self._children = [known for known in self._children if known.poll() is None]
        self._children.append(child)
        return child

    def set(
        self,
        *,
        bandwidth_bps: int | None = None,
        rtt_ns: int | None = None,
        queue_bytes: int | None = None,
        loss_ppm: int | None = None,
    ) -> dict[str, Any]:
        """Change the channel while it runs; the new :meth:`status`. None leaves a setting as it is.

        Raises :class:`BadSetting`, :class:`ChannelUnavailable` on plain loopback, :class:`ChannelFailed`.
        """
        given = {
            "bandwidth_bps": bandwidth_bps,
            "rtt_ns": rtt_ns,
            "queue_bytes": queue_bytes,
            "loss_ppm": loss_ppm,
        }
        message = {key: value for key, value in given.items() if value is not None}
        wanted = self.settings.changed(**message)
        if self._holding is None:
            raise ChannelUnavailable("plain loopback has no rate and no delay to set")
        status = self._ask({"op": "set", **message})
        self.settings = wanted
        return status

    def hold(self, direction: str, held: bool = True) -> None:
        """Keep every packet of ``direction`` inside, or let them all go again.

        Raises :class:`BadSetting`, :class:`ChannelUnavailable` on plain loopback, :class:`ChannelFailed`.
        """
        self._ask_emulator({"op": "hold", "direction": direction, "held": held})

    def let_pass(self, direction: str, packets: int = 1) -> None:
        """Let some packets of a direction that is held arrive. Raises as :meth:`hold`."""
        self._ask_emulator({"op": "pass", "direction": direction, "packets": packets})

    def _ask_emulator(self, message: Mapping[str, Any]) -> None:
        if self._holding is None:
            raise ChannelUnavailable("plain loopback holds nothing back")
        self._ask(message)

    def status(self) -> dict[str, Any]:
        """Settings in force, CPU time of the emulator (``cpu_ns``) and counters of both directions.

        ``directions`` has ``master_to_remote`` and ``remote_to_master``, each with the fields of
        :class:`tools.wan.link.LinkStatistics`; it is empty on plain loopback.
        """
        if self._holding is None:
            return {"kind": self.kind, "note": self.note, "cpu_ns": 0, "directions": {}}
        return self._ask({"op": "status"})

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if self._closed or self._holding is None:
            raise ChannelFailed("the channel is closed")
        return self._holding.ask(message)

    def close(self) -> None:
        """End what runs inside (SIGTERM, after 3 s SIGKILL), then the channel. Nothing is left; may be called again."""
        if self._closed:
            return
        self._closed = True
        try:
            for child in self._children:
                if child.poll() is None:
                    child.terminate()
            deadline = time.monotonic() + TERM_GRACE_S
            for child in self._children:
                _end_process(child, deadline)
        finally:
            if self._holding is not None:
                self._holding.end()
            if self.control_path is not None:
                with contextlib.suppress(OSError):  # the holder removes it, unless it was killed
                    self.control_path.unlink(missing_ok=True)
            self._spawner.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
