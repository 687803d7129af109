"""A double of the kernel's configfs for rtslib: a directory that fills and empties as configfs does.

What a new directory holds, with modes and first values, was recorded from a real kernel
(vectors/lio/configfs-6.1.json). The seam is the lowest that rtslib has: mkdir, rmdir and its function that writes a
file. The kernel's answers to writes are imitated as far as the driver meets them; the real kernel is the judge, in
tests/tools/test_lab_lio.py.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
from pathlib import Path

VECTORS = Path(__file__).resolve().parents[1] / "vectors/lio"
TYPES = ("None", "Implicit", "Explicit", "Implicit and Explicit")
STATUSES = ("None", "Altered by Explicit STPG", "Altered by Implicit ALUA")
PLUGINS = {"rd_mcp": "ramdisk", "fileio": "fileio", "iblock": "block", "pscsi": "block", "user": "fileio"}
ALUA_INFO = "TG Port Alias: {}\nTG Port Group ID: 0\nTG Port Primary Access State: Active/Optimized\n"


class SimulatedConfigfs:
    """configfs with an empty LIO in it, at ``top``/target; patches rtslib and os through ``monkeypatch``."""

    def __init__(self, top, monkeypatch):
        self.top = top / "config"
        self.root = self.top / "target"
        self.templates = json.loads((VECTORS / "configfs-6.1.json").read_text())
        self.refusals = {}
        self.writes = []
        self._devices = {}
        self._mkdir, self._rmdir = os.mkdir, os.rmdir
        self.root.mkdir(parents=True)
        self._fill(self.root, "root")
        (self.root / "dbroot").write_text(f"{top}/dbroot\n")
        (self.root / "core").mkdir()
        (self.root / "iscsi").mkdir()
        self._fill(self.root / "iscsi", "fabric")
        self._patch(monkeypatch, top)

    def _patch(self, monkeypatch, top):
        rtslib = importlib.import_module("rtslib")
        monkeypatch.setattr(os, "mkdir", self.mkdir)
        monkeypatch.setattr(os, "rmdir", self.rmdir)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        real = os.path.ismount
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == self.top or real(path))
        monkeypatch.setattr(importlib.import_module("rtslib.node").CFSNode, "configfs_dir", str(self.root))
        for name in ("node", "tcm", "target", "fabric", "alua", "root", "utils"):
            module = importlib.import_module(f"rtslib.{name}")
            if hasattr(module, "fwrite"):
                monkeypatch.setattr(module, "fwrite", self.write)
        monkeypatch.setattr(importlib.import_module("rtslib.root"), "mount_configfs", lambda: None)
        monkeypatch.setattr(rtslib.RTSRoot, "_preferred_dbroot", str(top / "dbroot"))
        tcm = importlib.import_module("rtslib.tcm")
        monkeypatch.setattr(tcm, "lock_file", str(top / "rtslib.lock"))
        tcm.bs_cache.clear()

    def refuse(self, ending, number=errno.EINVAL):
        """Let every write, mkdir and rmdir of a path with this ending fail."""
        self.refusals[ending] = number

    def _check(self, path):
        for ending, number in self.refusals.items():
            if str(path).endswith(ending):
                raise OSError(number, os.strerror(number), str(path))

    def _inside(self, path):
        return str(path).startswith(f"{self.root}/")

    # -- directories --------------------------------------------------------------------------------------------

    def mkdir(self, path, mode=0o777, **options):
        path = Path(os.fspath(path))
        if not self._inside(path) or options:
            self._mkdir(path, mode, **options)
            return
        if not path.parent.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self._check(path)
        template = self._template(path)
        if template is None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        self._mkdir(path, mode)
        self._fill(path, template)

    def _template(self, path):
        words = path.relative_to(self.root).parts
        if words[0] == "core":
            if len(words) == 2:
                return "hba"
            if len(words) == 3:
                return PLUGINS.get(words[1].rpartition("_")[0])
            return "alua_group" if words[3] == "alua" and len(words) == 5 else None
        if words[0] != "iscsi":
            return None
        if len(words) == 2:
            return "target"
        if len(words) == 3:
            return "group" if words[2].startswith("tpgt_") else None
        if len(words) == 5:
            return {"lun": "lun", "acls": "acl", "np": "portal"}.get(words[3])
        return (
            "mapped_lun" if words[3] == "acls" and words[-1].startswith("lun_") and len(words) == 6 else None
        )

    def _fill(self, path, template):
        for folder, files in self.templates[template].items():
            place = path / folder
            if folder != ".":
                shutil.rmtree(place, ignore_errors=True)
                self._mkdir(place)
            for name, (mode, text) in files.items():
                (place / name).write_text(text or "")
                (place / name).chmod(mode)

    def rmdir(self, path, **options):
        path = Path(os.fspath(path))
        if not self._inside(path) or options:
            self._rmdir(path, **options)
            return
        self._check(path)
        for child in self._made_below(path):
            raise OSError(errno.ENOTEMPTY, f"{os.strerror(errno.ENOTEMPTY)} ({child.name})", str(path))
        if any(link for link in self._links() if os.path.realpath(link) == str(path)):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        for folder, folders, files in os.walk(path, topdown=False):
            for name in files:
                (Path(folder) / name).unlink()
            for name in folders:
                self._rmdir(Path(folder) / name)
        self._rmdir(path)

    def _made_below(self, path):
        """What somebody made in there: it has to go first."""
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                child = Path(folder) / name
                made = child.is_dir() and self._template(child) is not None and name != "default_tg_pt_gp"
                if made or child.is_symlink():
                    yield child

    def _links(self):
        for folder, folders, files in os.walk(self.root):
            yield from (
                str(Path(folder) / name) for name in (*folders, *files) if (Path(folder) / name).is_symlink()
            )

    # -- files --------------------------------------------------------------------------------------------------

    def write(self, path, text):
        """rtslib's fwrite, as the kernel takes it."""
        path, text = Path(path), str(text).strip()
        if not self._inside(path):
            path.write_text(text)
            return
        self._check(path)
        self.writes.append((str(path.relative_to(self.root)), text))
        if not path.exists() or not path.stat().st_mode & 0o200:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        store = path.parent
        if path.name == "control":
            options = self._devices.setdefault(str(store), {})
            options.update(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
        elif path.name == "enable" and self._is_store(store):
            self._configure(store)
        elif path.name == "vpd_unit_serial":
            path.write_text(f"T10 VPD Unit Serial Number: {text}\n")
        elif path.name == "alua_tg_pt_gp":
            path.write_text(ALUA_INFO.format(text))
        elif path.name == "alua_access_type":
            path.write_text(f"{TYPES[int(text)]}\n")
        elif path.name == "alua_access_status":
            path.write_text(f"{STATUSES[int(text)]}\n")
        elif path.parent.name == "attrib" and not text.lstrip("-").isdigit():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        else:
            path.write_text("\n" if text == "NULL" else f"{text}\n")

    def _is_store(self, path):
        words = path.relative_to(self.root).parts
        return words[0] == "core" and len(words) == 3

    def _configure(self, store):
        options = self._devices.get(str(store), {})
        hba = store.parent.name.rpartition("_")[0]
        head = "Status: DEACTIVATED  Max Queue Depth: 0  SectorSize: 512  HwMaxSectors: 16384\n        "
        if hba == "rd_mcp":
            pages, nullio = int(options["rd_pages"]), options.get("rd_nullio", "0")
            rest = f"TCM RamDisk ID: 0  RamDisk Makeup: rd_mcp\n PAGES/PAGE_SIZE: {pages}*4096  SG_table_count: 1"
            rest += f"  nullio: {nullio} dummy: 0\n"
        elif hba == "fileio":
            name, size = options["fd_dev_name"], int(options["fd_dev_size"])
            device = Path(name)
            if not device.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(store / "enable"))
            device.touch()
            mode = "Buffered-WCE" if options.get("fd_buffered_io") == "1" else "O_DSYNC"
            queued = options.get("fd_async_io", 0)
            rest = f"TCM FILEIO ID: 0        File: {name}  Size: {size}  Mode: {mode} Async: {queued}\n"
        elif hba == "user":
            rest = f"Config: {options['dev_config']} Size: {options['dev_size']} MaxDataAreaMB: 1024\n"
        else:
            device = options.get("udev_path")
            rest = f"iBlock device: loop0  UDEV PATH: {device}  readonly: {options.get('readonly', 0)}\n"
        (store / "info").chmod(0o644)
        (store / "info").write_text(head + rest)
        (store / "enable").write_text("1\n")
