"""The netem channel on a machine whose kernel has no netem: in a user-mode Linux, which sees our files read-only.

Debian's ``user-mode-linux`` is a whole kernel as one ordinary program, with sch_netem and veth as modules. It boots
here in a second or two with a small Python program as its init, which runs the netem tests and switches off.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.wan.channel import Channel
from tools.wan.errors import ChannelUnavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

ROOT = Path(__file__).resolve().parents[2]
BOOT_LIMIT_S = 450
FIX = "to fix it: apt-get install user-mode-linux (or unpack it and set SANCREDIT_UML to where)"

INIT = """#!{python}
import ctypes, os, platform, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result, what):
    if result:
        print(what, os.strerror(ctypes.get_errno()), flush=True)
try:
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")):
        check(libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None), "mount " + place)
    for module in {modules!r}:
        descriptor = os.open(module, os.O_RDONLY)
        check(libc.syscall(313, descriptor, b"", 0), "finit_module " + module)
        os.close(descriptor)
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/run", TMPDIR="/run", PYTHONDONTWRITEBYTECODE="1",
        HYPOTHESIS_STORAGE_DIRECTORY="/run", PYTHONPATH={root!r}, NO_COLOR="1")
    os.chdir({root!r})
    command = [{python!r}, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "400", "-k", "netem", {tests!r}]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    print("kernel", platform.release(), "exit status", done.returncode, flush=True)
finally:
    libc.reboot(0x4321FEDC)
"""


def user_mode_linux() -> tuple[Path, list[str]]:
    """The kernel's program and the modules to load, in order."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("user-mode Linux is for x86_64")
    prefix = Path(os.environ.get("SANCREDIT_UML", "/"))
    found = shutil.which("linux.uml", path=str(prefix / "usr/bin"))
    if found is None:
        pytest.skip(f"neither netem nor linux.uml is here; {FIX}")
    kernels = sorted((prefix / "usr/lib/uml/modules").glob("*/kernel"))
    names = ("net/sched/sch_netem.ko", "drivers/net/veth.ko")
    if not kernels or not all((kernels[-1] / name).exists() for name in names):
        pytest.skip(f"linux.uml has no modules sch_netem and veth; {FIX}")
    return Path(found).absolute(), [str((kernels[-1] / name).absolute()) for name in names]


def test_the_netem_channel_works_in_a_kernel_that_has_netem(tmp_path):
    try:
        Channel.open("netem", bandwidth_bps=10**8, rtt_ns=10**7).close()
    except ChannelUnavailable as unavailable:
        assert unavailable.fix
    else:
        pytest.skip("this kernel has netem itself, so that the other tests have used it already")
    program, modules = user_mode_linux()
    init = tmp_path / "init"
    tests = str(ROOT / "tests/tools/test_wan_channel.py")
    init.write_text(INIT.format(python=sys.executable, modules=modules, root=str(ROOT), tests=tests))
    init.chmod(0o755)
    command = [
        *(str(program), "rootfstype=hostfs", "rootflags=/", "ro", "mem=512M", f"init={init}"),
        *("con=null", "con0=fd:0,fd:1", f"uml_dir={tmp_path}/", "quiet"),
    ]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as machine:
        try:
            output = machine.communicate(timeout=BOOT_LIMIT_S)[0].decode(errors="replace")
        finally:
            if machine.poll() is None:
                os.killpg(machine.pid, signal.SIGKILL)
    assert "exit status 0" in output, output
    assert "2 passed" in output, output
