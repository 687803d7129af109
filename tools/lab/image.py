"""The guest's kernel, initramfs and root file system, built once for each recipe and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.lab import guest
from tools.lab.cpio import newc
from tools.lab.errors import LabFailed, LabUnavailable
from tools.lab.packages import Packages, unpack

Say = Callable[[str], None]
_SPARE_MIB = 96
_RECIPE = 1
"""Counts changes in how an image is built that its ingredients do not show."""


@dataclass(frozen=True, slots=True)
class Image:
    """What qemu boots. ``probe``: the initramfs that says it is up and switches off."""

    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"

    @property
    def probe(self) -> Path:
        return self.directory / "probe"

    @property
    def root(self) -> Path:
        return self.directory / "root.ext4"


def cache_directory() -> Path:
    """Where the lab keeps packages, images and running guests: $SANCREDIT_CACHE, else ~/.cache/sancredit (XDG)."""
    given = os.environ.get("SANCREDIT_CACHE")
    if given:
        return Path(given) / "lab"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sancredit" / "lab"


def recipe() -> str:
    """What an image is made from, in 16 hexadecimal digits; package versions are not in it: `rebuild` renews them."""
    ingredients = (
        _RECIPE,
        guest.PACKAGES,
        guest.KERNEL,
        guest.UNWANTED,
        guest.LEFT_OUT,
        guest.MODULES,
        guest.EARLY_MODULES,
        guest.INITRAMFS_INIT,
        guest.PROBE_INIT,
        guest.DIRECTORIES,
        sorted(guest.files().items()),
    )
    return hashlib.sha256(repr(ingredients).encode()).hexdigest()[:16]


def ready_image(cache: Path | None = None) -> Image | None:
    """The image of the present recipe, if the cache has it."""
    image = Image((cache or cache_directory()) / "images" / recipe())
    return image if image.root.exists() else None


def build(say: Say, *, rebuild: bool = False, cache: Path | None = None) -> Image:
    """The image, from the cache or made now; one process builds, others wait for it.

    Raises :class:`LabUnavailable` where packages or tools cannot be had, :class:`LabFailed` when building fails.
    """
    cache = cache or cache_directory()
    images = cache / "images"
    try:
        images.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabUnavailable(f"{images}: {(error.strerror or '').lower()}", "set SANCREDIT_CACHE") from None
    with _locked(cache / "build.lock"):
        found = None if rebuild else ready_image(cache)
        if found is not None:
            return found
        made = images / recipe()
        with tempfile.TemporaryDirectory(prefix="building-", dir=images) as folder:
            _build(Path(folder), Packages(cache), say)
            finished = Path(folder) / "image"
            if made.exists():
                shutil.rmtree(made)
            finished.rename(made)
        for old in images.iterdir():  # images of other recipes, and what an interrupted build left
            if old != made:
                shutil.rmtree(old, ignore_errors=True)
        return Image(made)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(work: Path, packages: Packages, say: Say) -> None:
    if platform.machine() != "x86_64":  # the guest's own depmod and python3 run here
        raise LabUnavailable(
            f"the lab's guest is built on an x86-64 machine, and this is {platform.machine()}",
            "copy ~/.cache/sancredit/lab from a machine that has built it",
        )
    mke2fs = tool("mke2fs", "e2fsprogs")
    say("resolving and downloading packages")
    debs, kernel_deb = packages.download(guest.PACKAGES, guest.UNWANTED, guest.KERNEL)
    root, kernel, image = work / "root", work / "kernel", work / "image"
    for path in (root, kernel, image):
        path.mkdir()
    say(f"unpacking {len(debs)} packages and the kernel")
    for name in ("bin", "sbin", "lib", "lib64"):
        for top in (root, kernel):
            (top / "usr" / name).mkdir(parents=True)
            (top / name).symlink_to(f"usr/{name}")
    for directory in guest.DIRECTORIES:
        (root / directory).mkdir(parents=True, exist_ok=True)
    for deb in debs:
        unpack(deb, root, guest.LEFT_OUT)
    unpack(kernel_deb, kernel, ("./usr/share",))
    version = next((kernel / "usr/lib/modules").iterdir()).name
    shutil.copy(kernel / f"boot/vmlinuz-{version}", image / "vmlinuz")
    say(f"choosing modules of kernel {version}")
    _modules(root, kernel, version)
    _own_files(root)
    say("compiling the guest's Python files")
    _compile(root)
    say("writing the initramfs and the root file system")
    _initramfs(work, root, version, image)
    used = sum(path.lstat().st_size for path in root.rglob("*")) >> 20
    with (image / "root.ext4").open("wb") as file:
        file.truncate(int(used * 1.2 + _SPARE_MIB) << 20)
    features = ["-O", "^has_journal", "-E", "root_owner=0:0", "-m", "0"]
    _run([mke2fs, "-q", "-t", "ext4", *features, "-d", str(root), str(image / "root.ext4")])


def tool(name: str, package: str) -> str:
    """The path of a program, also where PATH leaves the sbin directories out. Raises :class:`LabUnavailable`."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise LabUnavailable(f"there is no {name} here", f"apt-get install {package}")
    return found


def _run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
        check=False,
    )
    if done.returncode:
        raise LabFailed(f"{Path(command[0]).name}: {(done.stderr or done.stdout).strip()[:300]}")
    return done.stdout


def _guest_program(root: Path, program: str, name: str) -> list[str]:
    """A program of the guest, run here with the guest's libraries: this machine may have none, or another version."""
    loader = next((root / "usr/lib64").glob("ld-linux*"))
    libraries = next((root / "usr/lib").glob("*-linux-gnu"))
    return [str(loader), "--argv0", name, "--library-path", str(libraries), str(root / "usr/bin" / program)]


def _depmod(root: Path, base: Path, version: str) -> None:
    _run([*_guest_program(root, "kmod", "depmod"), "-b", str(base), version])


def _compile(root: Path) -> None:
    """Byte code for all of the guest's Python files, once here and not at every start there."""
    library = next((root / "usr/lib").glob("python3.*"))
    command = [*_guest_program(root, "python3", "python3"), "-m", "compileall", "-q", "-s", str(root)]
    paths = [str(library), str(root / "usr/lib/python3"), str(root / "usr/lib/lab-agent.py")]
    _run([*command, "--invalidation-mode", "unchecked-hash", *paths], PYTHONHOME=str(root / "usr"))


def _modules(root: Path, kernel: Path, version: str) -> None:
    """Copy the modules wanted, with what they need, uncompressed; kernel packages ship no modules.dep."""
    _depmod(root, kernel, version)
    source, target = kernel / "usr/lib/modules" / version, root / "usr/lib/modules" / version
    target.mkdir(parents=True)
    for path in _closure(source, guest.MODULES):
        plain = target / path.removesuffix(".xz")
        plain.parent.mkdir(parents=True, exist_ok=True)
        data = (source / path).read_bytes()
        plain.write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    _depmod(root, root, version)


def _closure(tree: Path, names: Iterable[str]) -> list[str]:
    """Paths of modules and of all that they depend on, softly too, in an order in which they can be loaded."""
    paths: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        paths[_module_name(path)] = path
        needs[_module_name(path)] = [_module_name(other) for other in rest.split()][::-1]
    soft: dict[str, list[str]] = {}
    for line in (tree / "modules.softdep").read_text().splitlines():
        match = re.match(r"softdep (\S+) pre: (.*?)(?: post:.*)?$", line)
        if match:
            soft[match.group(1).replace("-", "_")] = [
                name.replace("-", "_") for name in match.group(2).split()
            ]
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in paths or paths[name] in found:
            return
        for other in (*soft.get(name, ()), *needs[name]):
            add(other)
        found[paths[name]] = None

    for name in names:
        add(name.replace("-", "_"))
    return list(found)


def _module_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def _own_files(root: Path) -> None:
    for path, (text, mode) in guest.files().items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
    if not (root / "var/run").is_symlink():
        shutil.rmtree(root / "var/run", ignore_errors=True)
        (root / "var/run").symlink_to("/run")
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("dash")
    targetcli = root / guest.TARGETCLI_FILE
    if targetcli.exists():
        text = targetcli.read_text()
        targetcli.write_text(text.replace(guest.TARGETCLI_BEFORE, guest.TARGETCLI_AFTER))
    applets = _run([str(root / "usr/bin/busybox"), "--list"]).split()
    for applet in applets:  # grep, awk, … : whatever no package brought
        places = [root / "usr" / name / applet for name in ("bin", "sbin")]
        if not any(place.is_symlink() or place.exists() for place in places):
            places[0].symlink_to("busybox")


def _initramfs(work: Path, root: Path, version: str, image: Path) -> None:
    """Uncompressed: an emulated processor copies faster than it inflates."""
    top = work / "early"
    (top / "bin").mkdir(parents=True)
    (top / "m").mkdir()
    shutil.copy(root / "usr/bin/busybox", top / "bin/busybox")
    (top / "init").write_text(guest.PROBE_INIT)
    (top / "init").chmod(0o755)
    (image / "probe").write_bytes(newc(top))
    (top / "init").write_text(guest.INITRAMFS_INIT)
    modules = root / "usr/lib/modules" / version
    order = []
    for path in _closure(modules, guest.EARLY_MODULES):
        shutil.copy(modules / path, top / "m")
        order.append(Path(path).name)
    (top / "order").write_text("\n".join(order) + "\n")
    (image / "initrd").write_bytes(newc(top))
