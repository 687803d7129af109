"""A running guest: qemu as a process of its own, found again by its name from any other process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.lab import accelerator
from tools.lab.agent import COMMAND_S, Agent
from tools.lab.errors import LabFailed, LabUnavailable
from tools.lab.guest import UP
from tools.lab.guest_agent import PORT
from tools.lab.image import Image, build, cache_directory

HOST_ADDRESS = "10.0.2.2"
"""Where the guest reaches what listens on this machine's 127.0.0.1."""
DEFAULT_NAME = "lab"
_KEEPER = Path(__file__).with_name("keeper.py")
_BOOT_S = 300.0
"""Fifty times what it takes: an emulated processor on a machine with other work is slow, and nobody waits in vain for
what has ended."""
_MONITOR_S = 60.0
_KERNEL_WORDS = (
    "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check nokaslr "
    "rcupdate.rcu_expedited=1 net.ifnames=0 audit=0"
)
#: An emulated processor's TSC is this machine's, and the guest measures its rate while it boots: next to other work
#: it finds too low a rate, and from then on its clocks run several times too fast. The ACPI timer's rate is known.
_EMULATED_WORDS = "tsc=unstable clocksource=acpi_pm"


@dataclass(frozen=True, slots=True)
class Settings:
    """A guest's size and life. ``lifetime_s``: it ends by itself after that, and with the process ``owner_pid`` before;
    ``network``: more of qemu's words."""

    memory_mib: int = 1024
    processors: int = 2
    lifetime_s: int | None = None
    owner_pid: int | None = None
    network: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    """Words before qemu's, such as those that enter a network namespace."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest that runs. ``directory`` holds its sockets and its console."""

    name: str
    pid: int
    directory: str
    accelerator: str
    boot_s: float
    start_ticks: int = 0

    @property
    def agent(self) -> Agent:
        """For commands and files."""
        return Agent(Path(self.directory) / "agent")

    @property
    def console(self) -> Path:
        """What the kernel said."""
        return Path(self.directory) / "console"

    def run(self, command: str, *, timeout_s: float = COMMAND_S) -> str:
        """What a shell command wrote. Raises :class:`LabFailed` when its exit status is not 0."""
        return self.agent.run(command, timeout_s=timeout_s).check(command.strip().splitlines()[0][:120])

    def forward(self, guest_port: int) -> int:
        """A port on this machine's 127.0.0.1 that leads to the guest's TCP port."""
        for _ in range(20):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            answer = self.monitor(f"hostfwd_add tcp:127.0.0.1:{port}-10.0.2.15:{guest_port}")
            if not answer.strip():
                return port
        raise LabFailed(f"qemu forwards no port: {answer.strip()}")

    def monitor(self, command: str) -> str:
        """Qemu's answer to a command of its monitor."""
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(_MONITOR_S)
                link.connect(str(Path(self.directory) / "qmp"))
                lines = link.makefile("rw")
                for request in (
                    {"execute": "qmp_capabilities"},
                    {"execute": "human-monitor-command", "arguments": {"command-line": command}},
                ):
                    lines.write(json.dumps(request) + "\n")
                    lines.flush()
                    answer = _reply(lines)
        except (OSError, ValueError) as error:
            raise LabFailed(f"qemu does not answer: {error}") from None
        if "return" not in answer:
            raise LabFailed(f"qemu: {answer.get('error', answer)}")
        return str(answer["return"])

    def alive(self) -> bool:
        """Whether its qemu still runs, and is not another process with its number."""
        return _start_ticks(self.pid) == self.start_ticks

    def down(self) -> None:
        """Switch it off at once and remove what it left."""
        if self.alive():
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + 10
            while self.alive() and time.monotonic() < deadline:
                _reap(self.pid)
                time.sleep(0.02)
            if self.alive():
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                _reap(self.pid, wait=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        _record(self.name).unlink(missing_ok=True)


def _reply(lines: Any) -> dict[str, Any]:
    """The next answer; greetings and events are passed over."""
    while True:
        line = lines.readline()
        if not line:
            raise OSError("its monitor was closed")
        found = json.loads(line)
        if "return" in found or "error" in found:
            return dict(found)


def _reap(pid: int, *, wait: bool = False) -> None:
    """Where qemu is a child of ours, let it go; elsewhere init does."""
    try:
        os.waitpid(pid, 0 if wait else os.WNOHANG)
    except ChildProcessError:
        return


def _start_ticks(pid: int) -> int | None:
    """When a process began (proc(5), field 22), which tells it from a later one with its number; None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _record(name: str) -> Path:
    return cache_directory() / "machines" / f"{name}.json"


def check_name(name: str) -> str:
    """The name, if it can be one. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}", name):
        raise ValueError(f"a guest's name is letters, digits, . _ and -, at most 41, not {name!r:.60}")
    return name


def recorded(name: str = DEFAULT_NAME) -> Machine | None:
    """The guest that was booted last under that name, though it may have ended by itself since."""
    try:
        return Machine(**json.loads(_record(check_name(name)).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def running(name: str = DEFAULT_NAME) -> Machine | None:
    """The guest of that name, if it runs."""
    machine = recorded(name)
    return machine if machine is not None and machine.alive() else None


def qemu() -> str:
    """The path of qemu. Raises :class:`LabUnavailable`."""
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise LabUnavailable(
            "there is no qemu-system-x86_64 here", "apt-get install --no-install-recommends qemu-system-x86"
        )
    return found


def up(
    name: str = DEFAULT_NAME,
    settings: Settings | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
    rebuild: bool = False,
) -> Machine:
    """Build the image where the cache lacks it, and boot a guest until its agent answers.

    Raises :class:`LabUnavailable` where this machine cannot, :class:`LabFailed` when one of that name runs already or
    the boot fails; then nothing is left of it.
    """
    check_name(name)
    program = qemu()
    before = recorded(name)
    if before is not None:
        if before.alive():
            raise LabFailed(f"a guest called {name} runs already; sancredit lab down --name {name}")
        before.down()  # what it left when it ended by itself
    image = build(say, rebuild=rebuild)
    chosen = accelerator.choose(program, image)
    say(f"booting {name} ({chosen})")
    return _boot(name, settings or Settings(), program, image, chosen)


def _boot(name: str, settings: Settings, program: str, image: Image, chosen: str) -> Machine:
    directory = Path(tempfile.mkdtemp(prefix="sancredit-lab-"))
    command = [*settings.prefix, *_command(program, settings, image, chosen, directory)]
    if settings.lifetime_s is not None:
        words = (settings.owner_pid or 0, settings.lifetime_s, directory, _record(name))
        command = [sys.executable, "-I", "-S", str(_KEEPER), *map(str, words), "--", *command]
    began = time.monotonic()
    with (directory / "qemu.log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    machine = Machine(name, process.pid, str(directory), chosen, 0.0, _start_ticks(process.pid) or -1)
    try:
        _await_boot(machine, process, began)
        machine = Machine(
            name, process.pid, str(directory), chosen, round(time.monotonic() - began, 1), machine.start_ticks
        )
        record = _record(name)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(asdict(machine)))
    except BaseException:
        machine.down()
        raise
    process.returncode = 0  # it outlives us: no warning that it still runs
    return machine


def _command(program: str, settings: Settings, image: Image, chosen: str, directory: Path) -> Sequence[str]:
    return [
        *(program, "-M", "q35", *accelerator.arguments(chosen)),
        *("-smp", str(settings.processors), "-m", str(settings.memory_mib)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-serial", f"file:{directory}/console", "-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", f"{_KERNEL_WORDS} {_EMULATED_WORDS if chosen == accelerator.TCG else ''}"),
        *("-drive", f"file={image.root},format=raw,if=none,id=root,snapshot=on,cache=unsafe"),
        *(
            "-device",
            "virtio-blk-pci,drive=root",
            "-device",
            "virtio-rng-pci",
            "-device",
            "virtio-serial-pci",
        ),
        *("-chardev", f"socket,id=agent,path={directory}/agent,server=on,wait=off"),
        *("-device", f"virtserialport,chardev=agent,name={PORT}"),
        *("-qmp", f"unix:{directory}/qmp,server=on,wait=off"),
        *("-netdev", "user,id=user,ipv6=off,net=10.0.2.0/24,host=10.0.2.2,dns=10.0.2.3,restrict=off"),
        *("-device", "virtio-net-pci,netdev=user,romfile="),
        *settings.network,
    ]


def _await_boot(machine: Machine, process: subprocess.Popen[bytes], began: float) -> None:
    while time.monotonic() - began < _BOOT_S:
        if process.poll() is not None:
            said = (Path(machine.directory) / "qemu.log").read_text().strip()
            raise LabFailed(f"qemu ended with {process.returncode}: {said[-300:] or _last_words(machine)}")
        try:
            if UP in machine.console.read_text(errors="replace"):
                left = max(1.0, began + _BOOT_S - time.monotonic())
                machine.agent.call({"get": "/proc/uptime", "offset": 0, "size": 64}, left)
                return
        except FileNotFoundError:
            pass  # qemu has not opened the console's file yet
        time.sleep(0.05)
    raise LabFailed(f"the guest has not booted in {_BOOT_S:g} s; {_last_words(machine)}")


def _last_words(machine: Machine) -> str:
    said = machine.console.read_text(errors="replace").strip() if machine.console.exists() else ""
    return f"its last words: {' | '.join(said.splitlines()[-4:])[-400:]}" if said else "its console is empty"
