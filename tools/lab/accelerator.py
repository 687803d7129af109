"""KVM or plain emulation: KVM only where a whole boot answers in time.

That /dev/kvm exists says little: inside another virtual machine it may open, and run a guest a hundred times slower
than plain emulation does. So a kernel is booted whose init says that it is up and switches off.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tools.lab.guest import UP
from tools.lab.image import Image, cache_directory

TCG, KVM = "tcg", "kvm"
_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PATIENCE_S = 10


def arguments(accelerator: str) -> list[str]:
    """Of qemu. la57 costs an emulated guest a page-table level; tb-size keeps all translated code."""
    if accelerator == KVM:
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"]


def choose(qemu: str, image: Image) -> str:
    """``kvm`` or ``tcg``; asked once in each boot of this machine. $SANCREDIT_LAB_ACCELERATOR goes before."""
    given = os.environ.get("SANCREDIT_LAB_ACCELERATOR")
    if given in (TCG, KVM):
        return given
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return TCG
    memory = cache_directory() / "accelerator.json"
    boot = _BOOT_ID.read_text().strip()
    try:
        known = json.loads(memory.read_text())
        if known["boot"] == boot and known["accelerator"] in (TCG, KVM):
            return str(known["accelerator"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nobody has asked yet, or what was noted is of no use: ask
    found = KVM if _answers(qemu, image) else TCG
    memory.write_text(json.dumps({"boot": boot, "accelerator": found}))
    return found


def _answers(qemu: str, image: Image) -> bool:
    command = [
        qemu,
        "-M",
        "q35",
        *arguments(KVM),
        "-m",
        "256",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]
    command += ["-kernel", str(image.kernel), "-initrd", str(image.probe), "-serial", "stdio"]
    command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return UP.encode() in done.stdout
