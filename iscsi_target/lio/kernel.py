# SPDX-License-Identifier: Apache-2.0
"""One step on the kernel, through rtslib (2.1 of Debian, 2.2 of PyPI), and the step that takes it back.

Every setting is read back: rtslib passes over some refusals in silence, and the kernel rounds. What rtslib's own
checks and constructors do beside the point is written at the place where it matters.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from iscsi_target.lio import configfs
from iscsi_target.lio.errors import KernelUnavailable, LioError
from iscsi_target.lio.nodes import DEFAULT_ALUA_GROUP, Key, Kind, Node, serial_of
from iscsi_target.lio.plan import Change, Make, Remove, Step

#: Modules that the core and a fabric need; the kernel loads a backstore's by itself.
_MODULES: Mapping[str, str] = {
    "iscsi": "iscsi_target_mod",
    "loopback": "tcm_loop",
    "vhost": "vhost_scsi",
    "tcm_fc": "tcm_fc",
    "qla2xxx": "tcm_qla2xxx",
}
_CLASSES: Mapping[str, str] = {
    "ramdisk": "RDMCPStorageObject",
    "fileio": "FileIOStorageObject",
    "block": "BlockStorageObject",
    "pscsi": "PSCSIStorageObject",
    "user": "UserBackedStorageObject",
}
#: Our words → those of rtslib's constructors.
_ARGUMENTS: Mapping[str, str] = {
    "size": "size",
    "device": "dev",
    "serial": "wwn",
    "write_back": "write_back",
    "read_only": "readonly",
    "aio": "aio",
    "nullio": "nullio",
    "config": "config",
    "hw_max_sectors": "hw_max_sectors",
    "control": "control",
}
_LOGINS: Mapping[str, str] = {
    "userid": "userid",
    "password": "password",
    "userid_mutual": "mutual_userid",
    "password_mutual": "mutual_password",
}


class Refused(LioError):
    """The kernel, or rtslib before it, did not take a step."""


def _rtslib() -> Any:
    problem = ""
    for name in ("rtslib", "rtslib_fb"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            problem = problem or f"there is no module {error.name}"
        except ImportError as error:  # pyudev, where there is no libudev
            problem = " ".join(str(error).split())
    raise KernelUnavailable(
        f"rtslib cannot be loaded: {problem}",
        "apt-get install libudev1, and pip install rtslib-fb where it is missing",
    )


class Kernel:
    """The kernel's target of this machine; `root`: where configfs has it."""

    def __init__(self, root: Path = configfs.ROOT, *, rtslib: Any = None) -> None:
        """Raises :class:`KernelUnavailable` without rtslib."""
        self.root = root
        self._rts = rtslib or _rtslib()
        self._stores: dict[Key, Path] = {}
        """Where the backstores are: finding one in configfs costs a look at all of them."""

    # -- whether it can be had ----------------------------------------------------------------------------------

    def prepare(self, fabrics: set[str]) -> None:
        """See to it that steps can be done: root, configfs, modules, rtslib's directory. Raises KernelUnavailable."""
        if os.geteuid() != 0:
            raise KernelUnavailable("only root may configure the kernel's target", "run it as root")
        if not os.path.ismount(self.root.parent):
            self._mount()
        self._load("target_core_mod", self.root / "core")
        for fabric in fabrics:
            self._load(_MODULES[fabric], self.root / configfs.FABRICS[fabric])
        self._database_directory()
        self._invalidate()

    def _mount(self) -> None:
        """rtslib 2.2's own attempt mounts on a directory called {config_dir}: it forgot an f before its string."""
        if not self.root.parent.is_dir():
            raise KernelUnavailable(
                "this kernel has no configfs", "modprobe configfs, or use a kernel that has LIO"
            )
        done = _command(["mount", "-t", "configfs", "configfs", str(self.root.parent)])
        if done:
            raise KernelUnavailable(f"configfs is not mounted: {done}", f"mount it at {self.root.parent}")

    def _load(self, module: str, sign: Path) -> None:
        """Load a module unless its directory is there; making that has the kernel ask for the module."""
        if sign.is_dir():
            return
        problem = _command(["modprobe", module])
        if sign.is_dir():
            return
        with suppress(OSError):
            sign.mkdir(parents=True)
        if not sign.is_dir():
            raise KernelUnavailable(
                f"this kernel has no {module}: {problem or 'its directory does not appear'}",
                "use a kernel with LIO, or sancredit lab up",
            )

    def _database_directory(self) -> None:
        """The directory in which the kernel keeps reservations: rtslib refuses everything where it is missing."""
        preferred = Path(self._rts.RTSRoot._preferred_dbroot)
        try:
            for name in ("pr", "alua"):
                (preferred / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KernelUnavailable(
                f"{preferred}: {error.strerror}", f"make the directory {preferred}"
            ) from None

    def _invalidate(self) -> None:
        """rtslib remembers backstores for the life of the process; others may have made some since."""
        importlib.import_module(f"{self._rts.__name__}.tcm").bs_cache.clear()
        self._stores = configfs.backstores(self.root)

    # -- steps --------------------------------------------------------------------------------------------------

    def inverse(self, step: Step) -> Step:
        """What would take `step` back, from what is there now; ask before doing it."""
        if isinstance(step, Make):
            return Remove(step.key)
        if isinstance(step, Change):
            old = configfs.setting(self._path(step.key), step.key.kind, step.name)
            return Change(step.key, step.name, step.new, old or "")
        return Make(self._node(step.key))

    def perform(self, step: Step) -> None:
        """Do one step. Raises :class:`Refused` with the reason, in one line."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # rtslib warns that dbroot cannot change once there are devices
                if isinstance(step, Make):
                    self._make(step.node)
                elif isinstance(step, Change):
                    self._set(self._object(step.key), step.key, step.name, step.new)
                else:
                    self._remove(step.key)
        except Refused:
            raise
        except Exception as error:
            # rtslib raises its own error, OSError, and whatever its slips come to (TypeError for a refused tcq_depth)
            raise Refused(f"cannot {step}: {_reason(error)}") from error

    def exists(self, key: Key) -> bool:
        """Whether the node's directory is there."""
        with suppress(LookupError):
            return self._path(key).is_dir()
        return False

    def _path(self, key: Key) -> Path:
        if key.kind is Kind.BACKSTORE:
            return self._stores[key]
        if key.kind is Kind.ALUA_GROUP:
            return self._stores[Key(Kind.BACKSTORE, key.path[:2])] / "alua" / key.path[2]
        return configfs.path_of(key, self.root)

    def _node(self, key: Key) -> Node:
        """A node with all its settings, as it can be made again."""
        return configfs.read_node(key, self._path(key))

    def _make(self, node: Node) -> None:
        made = self._made(node)
        path = self._path(node.key)
        for name, value in node.settings.items():
            if name != "enable" and configfs.setting(path, node.key.kind, name) != value:
                self._set(made, node.key, name, value)

    def _made(self, node: Node) -> Any:
        kind, words, rts = node.key.kind, node.key.path, self._rts
        if kind is Kind.BACKSTORE:
            return self._backstore(node)
        if kind is Kind.ALUA_GROUP:
            store = self._object(Key(Kind.BACKSTORE, words[:2]))
            tag = node.made_of.get("tag")
            if tag is None:
                return self._object(node.key)
            return rts.ALUATargetPortGroup(store, words[2], tag)
        if kind is Kind.DISCOVERY:
            return rts.FabricModule(words[0])
        if kind is Kind.TARGET:
            return rts.Target(rts.FabricModule(words[0]), words[1], mode="create")
        parent = node.key.parent
        assert parent is not None
        above = self._object(parent)
        if kind is Kind.GROUP:
            return rts.TPG(above, int(words[2]), mode="create")
        if kind is Kind.LUN:
            plugin, _, name = str(node.made_of["backstore"]).partition("/")
            store = self._object(Key(Kind.BACKSTORE, (plugin, name)))
            return rts.LUN(above, int(words[3]), storage_object=store, alias=node.made_of.get("alias"))
        if kind is Kind.ACL:
            return rts.NodeACL(above, words[3], mode="create")
        if kind is Kind.MAPPED_LUN:
            lun = self._object(Key(Kind.LUN, (*words[:3], str(node.made_of["lun"]))))
            return rts.MappedLUN(above, int(words[4]), lun, alias=node.made_of.get("alias"))
        address, _, port = words[3].rpartition(":")
        return rts.NetworkPortal(above, address, int(port), mode="create")

    def _backstore(self, node: Node) -> Any:
        plugin, name = node.key.path
        values = {_ARGUMENTS[word]: value for word, value in node.made_of.items() if value is not None}
        if plugin == "pscsi":
            values.pop("wwn", None)
        else:
            values.setdefault("wwn", serial_of(node.key))
        if plugin == "fileio" and "size" not in values:
            values["size"] = _size_of_file(str(values["dev"]))
        made = getattr(self._rts, _CLASSES[plugin])(name, **values)
        self._stores[node.key] = Path(made.path)
        return made

    def _object(self, key: Key) -> Any:
        """rtslib's object for a node that is there; never one that would be made by asking."""
        words, rts = key.path, self._rts
        if key.kind is Kind.BACKSTORE:
            index = self._path(key).parent.name.rpartition("_")[2]
            return getattr(rts, _CLASSES[words[0]])(words[1], index=index)
        if key.kind is Kind.ALUA_GROUP:
            return rts.ALUATargetPortGroup(self._object(Key(Kind.BACKSTORE, words[:2])), words[2])
        if key.kind is Kind.DISCOVERY:
            return rts.FabricModule(words[0])
        if key.kind is Kind.TARGET:
            return rts.Target(rts.FabricModule(words[0]), words[1], mode="lookup")
        parent = key.parent
        assert parent is not None
        above = self._object(parent)
        if key.kind is Kind.GROUP:
            return rts.TPG(above, int(words[2]), mode="lookup")
        if key.kind is Kind.LUN:
            return rts.LUN(above, int(words[3]))
        if key.kind is Kind.ACL:
            return rts.NodeACL(above, words[3], mode="lookup")
        if key.kind is Kind.MAPPED_LUN:
            return rts.MappedLUN(above, int(words[4]))
        address, _, port = words[3].rpartition(":")
        return rts.NetworkPortal(above, address, int(port), mode="lookup")

    def _set(self, thing: Any, key: Key, name: str, value: str) -> None:
        """One setting, and the question whether it is so now."""
        folder, _, last = name.rpartition("/")
        path = self._path(key)
        if folder in ("attrib", "param") and not (path / name).is_file():
            raise Refused(f"cannot set {last} of {key}: this kernel does not have it")
        if folder == "attrib":
            thing.set_attribute(last, value)
        elif folder == "param":
            thing.set_parameter(last, value)
        elif folder == "auth":
            setattr(thing, f"chap_{_LOGINS[last]}", value)
        elif folder == "discovery_auth" and last == "enforce_discovery_auth":
            thing.discovery_enable_auth = value == "1"
        elif folder == "discovery_auth":
            setattr(thing, f"discovery_{_LOGINS[last]}", value)
        else:
            _SETTERS[key.kind, last if key.kind is not Kind.ALUA_GROUP else ""](thing, last, value)
        now = configfs.setting(path, key.kind, name)
        if now != value and not (now is None and not value):
            shown = "another value" if "password" in name else repr(now)
            raise Refused(f"cannot set {last} of {key}: the kernel has {shown} after it was written")

    def _remove(self, key: Key) -> None:
        """Remove one node. rtslib's own delete() would take children of others along: there are none by now."""
        if key.kind is Kind.BACKSTORE:
            self._remove_backstore(key)
            return
        thing = self._object(key)
        if key.kind is Kind.GROUP:
            thing.enable = False
            Path(thing.path).rmdir()
        elif key.kind is Kind.TARGET:
            Path(thing.path).rmdir()
        else:
            thing.delete()

    def _remove_backstore(self, key: Key) -> None:
        """The directory, and the one above it. rtslib's delete() walks over every LUN of the machine, and stops at a
        backstore that never got its device."""
        path = self._path(key)
        for group in sorted((path / "alua").glob("*")):
            if group.is_dir() and group.name != DEFAULT_ALUA_GROUP:
                group.rmdir()
        path.rmdir()
        with suppress(OSError):  # others may have backstores there
            path.parent.rmdir()
        del self._stores[key]
        folder = path.parent.name.rpartition("_")[0]
        importlib.import_module(f"{self._rts.__name__}.tcm").bs_cache.pop(f"{folder}/{path.name}", None)


def _flag(attribute: str) -> Callable[[Any, str, str], None]:
    return lambda thing, name, value: setattr(thing, attribute, value == "1")


def _acl_tag(thing: Any, _name: str, value: str) -> None:
    thing.tag = value or None


def _alua_of_lun(thing: Any, _name: str, value: str) -> None:
    """rtslib answers -1 where the kernel refuses; the question afterwards finds it."""
    thing.alua_tg_pt_gp_name = value


_SETTERS: Mapping[tuple[Kind, str], Callable[[Any, str, str], None]] = {
    (Kind.GROUP, "enable"): _flag("enable"),
    (Kind.LUN, "alua_tg_pt_gp"): _alua_of_lun,
    (Kind.ACL, "tag"): _acl_tag,
    (Kind.ACL, "cmdsn_depth"): lambda thing, _name, value: setattr(thing, "tcq_depth", value),
    (Kind.MAPPED_LUN, "write_protect"): _flag("write_protect"),
    (Kind.PORTAL, "iser"): _flag("iser"),
    (Kind.PORTAL, "cxgbit"): _flag("offload"),
    (Kind.ALUA_GROUP, ""): lambda thing, name, value: setattr(thing, name, int(value)),
}


def _size_of_file(device: str) -> int:
    path = Path(device)
    try:
        return path.stat().st_size
    except OSError as error:
        raise Refused(f"{device}: {(error.strerror or '').lower()}; a new file needs its size") from None


def _command(words: list[str]) -> str:
    """Run a command; why it failed, or nothing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{words[0]}: {error.strerror if isinstance(error, OSError) else 'it does not end'}"
    said = " ".join(done.stderr.split())[:200]
    return said or f"{words[0]} ended with {done.returncode}" if done.returncode else ""


def _reason(error: Exception) -> str:
    """Why, in one line; of rtslib's words around an OSError only those that say which setting it was.

    Two slips of rtslib lose the reason: a TypeError over a refused tcq_depth, and 2.1 where a directory is refused.
    """
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and (isinstance(error, TypeError) or str(error).endswith("in configFS")):
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = re.sub(
        r"\[Errno \d+\] ([^:]*)(: '.*')?", lambda match: match[1].lower(), " ".join(str(error).split())
    )
    return re.sub(r"^Could not create \w+ in configFS: ", "", text)[:300] or type(error).__name__
