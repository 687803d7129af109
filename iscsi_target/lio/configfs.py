# SPDX-License-Identifier: Apache-2.0
"""What the kernel's target is now, read from configfs (Documentation/target/ of Linux); nothing is changed.

Read as plain files and not through rtslib: its objects check and list anew at every step, which costs minutes for a
thousand targets, and stumble over things half made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from iscsi_target.lio.nodes import DEFAULT_ALUA_GROUP, Key, Kind, Made, Node, Nodes

ROOT = Path("/sys/kernel/config/target")
#: The directory of a backstore's kind → rtslib's name for it.
PLUGINS: Mapping[str, str] = {
    "rd_mcp": "ramdisk",
    "fileio": "fileio",
    "iblock": "block",
    "pscsi": "pscsi",
    "user": "user",
}
#: The name of a fabric → its directory; those that write a WWN as aa:bb:…
FABRICS: Mapping[str, str] = {
    "iscsi": "iscsi",
    "loopback": "loopback",
    "vhost": "vhost",
    "tcm_fc": "fc",
    "qla2xxx": "qla2xxx",
}
_COLONS = ("tcm_fc", "qla2xxx")
_NO_TARGETS = ("lio_version", "version", "discovery_auth", "cpus_allowed_list")
_ACCESS_TYPES = ("None", "Implicit", "Explicit", "Implicit and Explicit")
_ACCESS_STATUSES = ("None", "Altered by Explicit STPG", "Altered by Implicit ALUA")
_LOGIN = tuple(f"auth/{name}{suffix}" for suffix in ("", "_mutual") for name in ("userid", "password"))
_ALUA = (
    *("alua_access_state", "alua_access_status", "alua_write_metadata", "alua_access_type", "preferred"),
    *("nonop_delay_msecs", "trans_delay_msecs", "implicit_trans_secs", "alua_support_offline"),
    *("alua_support_standby", "alua_support_transitioning", "alua_support_active_nonoptimized"),
    *("alua_support_unavailable", "alua_support_active_optimized"),
)
#: Settings that stand outside attrib/ and param/.
_FILES: Mapping[Kind, tuple[str, ...]] = {
    Kind.BACKSTORE: (),
    Kind.ALUA_GROUP: _ALUA,
    Kind.DISCOVERY: (
        *(name.replace("auth/", "discovery_auth/") for name in _LOGIN),
        "discovery_auth/enforce_discovery_auth",
    ),
    Kind.TARGET: (),
    Kind.GROUP: ("enable", *_LOGIN),
    Kind.LUN: ("alua_tg_pt_gp",),
    Kind.ACL: ("tag", "cmdsn_depth", *_LOGIN),
    Kind.MAPPED_LUN: ("write_protect",),
    Kind.PORTAL: ("iser", "cxgbit"),
}
_FOLDERS: Mapping[Kind, tuple[str, ...]] = {
    Kind.BACKSTORE: ("attrib",),
    Kind.TARGET: ("param",),
    Kind.GROUP: ("attrib", "param"),
    Kind.ACL: ("attrib",),
}
#: Of an ACL, param/ shows a session's values and is none of its settings.


def read(root: Path = ROOT, wanted: Mapping[Key, Node] | None = None) -> Nodes:
    """What is there, parents before children.

    With `wanted`, only the settings are read that it names, and whether portal groups work: enough for a plan, and a
    twentieth of the time. What vanishes meanwhile is taken as not there.
    """
    return dict(_nodes(root, wanted))


def _nodes(root: Path, wanted: Mapping[Key, Node] | None) -> Iterator[tuple[Key, Node]]:
    stores: dict[str, Key] = {}
    for hba, plugin in _hbas(root / "core"):
        for name in _folders(hba):
            key = Key(Kind.BACKSTORE, (plugin, name))
            path = hba / name
            stores[str(path)] = key
            yield key, Node(key, _made_of(path, plugin), _settings(path, key, wanted))
            for group in _folders(path / "alua"):
                inner = Key(Kind.ALUA_GROUP, (plugin, name, group))
                tag = (
                    {}
                    if group == DEFAULT_ALUA_GROUP
                    else {"tag": _number(_text(path / "alua" / group / "tg_pt_gp_id"))}
                )
                yield inner, Node(inner, tag, _settings(path / "alua" / group, inner, wanted))
    for fabric, folder in FABRICS.items():
        top = root / folder
        if not top.is_dir():
            continue
        if (top / "discovery_auth").is_dir():
            key = Key(Kind.DISCOVERY, (fabric,))
            yield key, Node(key, {}, _settings(top, key, wanted))
        for name in _folders(top):
            if name not in _NO_TARGETS:
                yield from _target(top / name, fabric, stores, wanted)


def _target(
    path: Path, fabric: str, stores: Mapping[str, Key], wanted: Mapping[Key, Node] | None
) -> Iterator[tuple[Key, Node]]:
    words = (fabric, wwn_of(fabric, path.name))
    key = Key(Kind.TARGET, words)
    yield key, Node(key, {}, _settings(path, key, wanted))
    for name in _numbered(path, "tpgt"):
        group_words = (*words, name.removeprefix("tpgt_"))
        yield from _group(path / name, group_words, stores, wanted)


def _group(
    path: Path, words: tuple[str, ...], stores: Mapping[str, Key], wanted: Mapping[Key, Node] | None
) -> Iterator[tuple[Key, Node]]:
    key = Key(Kind.GROUP, words)
    settings = dict(_settings(path, key, wanted))
    if "enable" not in settings:
        settings["enable"] = setting(path, Kind.GROUP, "enable") or "1"
    yield key, Node(key, {}, settings)
    for name in _numbered(path / "lun", "lun"):
        inner = Key(Kind.LUN, (*words, name.removeprefix("lun_")))
        alias, behind = _link(path / "lun" / name)
        store = stores.get(behind)
        made: dict[str, Made] = {"alias": alias, "backstore": "/".join(store.path) if store else None}
        if store is None:
            made["broken"] = True  # a directory without its link: half made
        node = Node(inner, made, _settings(path / "lun" / name, inner, wanted), (store,) if store else ())
        yield inner, node
    for name in _folders(path / "acls"):
        yield from _acl(path / "acls" / name, (*words, wwn_of(words[0], name)), wanted)
    for name in _folders(path / "np"):
        inner = Key(Kind.PORTAL, (*words, name))
        yield inner, Node(inner, {}, _settings(path / "np" / name, inner, wanted))


def _acl(path: Path, words: tuple[str, ...], wanted: Mapping[Key, Node] | None) -> Iterator[tuple[Key, Node]]:
    key = Key(Kind.ACL, words)
    yield key, Node(key, {}, _settings(path, key, wanted))
    for name in _numbered(path, "lun"):
        inner = Key(Kind.MAPPED_LUN, (*words, name.removeprefix("lun_")))
        alias, behind = _link(path / name)
        number = Path(behind).name.removeprefix("lun_") if behind else ""
        links = (Key(Kind.LUN, (*words[:3], number)),) if number else ()
        made: dict[str, Made] = {"alias": alias, "lun": _number(number)}
        yield inner, Node(inner, made, _settings(path / name, inner, wanted), links)


def backstores(root: Path = ROOT) -> dict[Key, Path]:
    """Where the backstores are."""
    return {
        Key(Kind.BACKSTORE, (plugin, name)): hba / name
        for hba, plugin in _hbas(root / "core")
        for name in _folders(hba)
    }


def read_node(key: Key, path: Path) -> Node:
    """One node with all its settings. Raises LookupError when it is not there."""
    if not path.is_dir():
        raise LookupError(str(key))
    made: dict[str, Made] = {}
    if key.kind is Kind.BACKSTORE:
        made = _made_of(path, key.path[0])
    elif key.kind is Kind.ALUA_GROUP and key.path[-1] != DEFAULT_ALUA_GROUP:
        made = {"tag": _number(_text(path / "tg_pt_gp_id"))}
    elif key.kind in (Kind.LUN, Kind.MAPPED_LUN):
        alias, behind = _link(path)
        made = {"alias": alias}
        if key.kind is Kind.MAPPED_LUN:
            made["lun"] = _number(Path(behind).name.removeprefix("lun_"))
        elif behind:
            hba, _, _ = Path(behind).parent.name.rpartition("_")
            made["backstore"] = f"{PLUGINS[hba]}/{Path(behind).name}"
    return Node(key, made, _settings(path, key, None))


def path_of(key: Key, root: Path = ROOT) -> Path:
    """The directory of a node of a fabric; those of backstores have numbers: :func:`backstores`."""
    words = key.path
    assert key.kind not in (Kind.BACKSTORE, Kind.ALUA_GROUP)
    path = root / FABRICS[words[0]]
    if key.kind is Kind.DISCOVERY:
        return path
    path /= wwn_in_kernel(words[0], words[1])
    if key.kind is Kind.TARGET:
        return path
    path /= f"tpgt_{words[2]}"
    if key.kind is Kind.GROUP:
        return path
    if key.kind is Kind.LUN:
        return path / "lun" / f"lun_{words[3]}"
    if key.kind is Kind.PORTAL:
        return path / "np" / words[3]
    path = path / "acls" / wwn_in_kernel(words[0], words[3])
    return path if key.kind is Kind.ACL else path / f"lun_{words[4]}"


def wwn_of(fabric: str, name: str) -> str:
    """A WWN as people write it, from the name of its directory."""
    return "naa." + name.replace(":", "") if fabric in _COLONS else name


def wwn_in_kernel(fabric: str, wwn: str) -> str:
    """The name of a WWN's directory."""
    digits = wwn.removeprefix("naa.")
    return ":".join(re.findall("..", digits)) if fabric in _COLONS else wwn


def setting(path: Path, kind: Kind, name: str) -> str | None:
    """One setting as it is compared: numbers for ALUA's words, nothing for NULL; None: there is no such file.

    A portal group of a fabric without the file ``enable`` (tcm_fc of Linux 6.1) is always at work.
    """
    text = _text(path / name)
    if text is None:
        return "1" if kind is Kind.GROUP and name == "enable" else None
    if kind is Kind.LUN and name == "alua_tg_pt_gp":
        return text.splitlines()[0].partition(":")[2].strip() if text else None
    if name == "alua_access_type" and text in _ACCESS_TYPES:
        return str(_ACCESS_TYPES.index(text))
    if name == "alua_access_status" and text in _ACCESS_STATUSES:
        return str(_ACCESS_STATUSES.index(text))
    return "" if text == "NULL" else text


def setting_names(path: Path, kind: Kind) -> Iterator[str]:
    """The settings that a node has and that can be written."""
    for folder in _FOLDERS.get(kind, ()):
        with suppress(OSError):
            for entry in sorted(os.scandir(path / folder), key=lambda entry: entry.name):
                if entry.stat().st_mode & 0o200:
                    yield f"{folder}/{entry.name}"
    yield from (name for name in _FILES[kind] if (path / name).exists())


def _settings(path: Path, key: Key, wanted: Mapping[Key, Node] | None) -> Mapping[str, str]:
    names: Iterable[str]
    if wanted is None:
        names = setting_names(path, key.kind)
    else:
        node = wanted.get(key)
        names = () if node is None else node.settings
    found = {}
    for name in names:
        value = setting(path, key.kind, name)
        if value is not None:
            found[name] = value
    return found


def _made_of(path: Path, plugin: str) -> dict[str, Made]:
    """What a backstore is, from the kernel's words about it (``info``)."""
    if _text(path / "enable") == "0":
        return {"configured": False}
    info = " ".join((_text(path / "info") or "").split())
    made: dict[str, Made] = {"serial": _serial(path)}
    device = _text(path / "udev_path")
    if plugin == "ramdisk":
        pages = re.search(r"PAGES/PAGE_SIZE: (\d+)\*(\d+)", info)
        made["size"] = int(pages[1]) * int(pages[2]) if pages else None
        made["nullio"] = _flag(info, "nullio")
    elif plugin == "fileio":
        file = re.search(r"File: (.*?)  ?Size: (\d+)  ?Mode: (\S+)", info)
        made["device"] = device or (file[1] if file else None)
        made["size"] = int(file[2]) if file else None
        made["write_back"] = file is not None and "WCE" in file[3]
        made["aio"] = _flag(info, "Async")
    elif plugin == "block":
        made["device"] = device
        made["read_only"] = _flag(info, "readonly")
    elif plugin == "pscsi":
        made["device"] = device
        made.pop("serial")  # it is the device's own
    elif plugin == "user":
        config = re.search(r"Config: (\S+)", info)
        size = re.search(r"\bSize: (\d+)", info)  # SectorSize comes before
        sectors = re.search(r"HwMaxSectors: (\d+)", info)
        made["config"] = config[1] if config and config[1] != "NULL" else None
        made["size"] = int(size[1]) if size else None
        made["hw_max_sectors"] = int(sectors[1]) if sectors else None
    return made


def _serial(path: Path) -> str | None:
    return (_text(path / "wwn/vpd_unit_serial") or "").partition(":")[2].strip() or None


def _flag(info: str, word: str) -> bool:
    found = re.search(rf"{word}: ?(\d)", info)
    return found is not None and found[1] != "0"


def _hbas(core: Path) -> Iterator[tuple[Path, str]]:
    """The directories above backstores, in the order of their numbers; a name may hold underscores."""
    for name in sorted(_folders(core), key=lambda name: _number(name.rpartition("_")[2]) or 0):
        plugin = PLUGINS.get(name.rpartition("_")[0])
        if plugin is not None:
            yield core / name, plugin


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _numbered(path: Path, prefix: str) -> list[str]:
    names = [name for name in _folders(path) if re.fullmatch(rf"{prefix}_\d+", name)]
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))


def _link(path: Path) -> tuple[str | None, str]:
    """The link in a LUN's directory: its name, and where it leads; None and nothing for a LUN half made."""
    with suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_symlink():
                return entry.name, os.path.normpath(path / os.readlink(entry.path))  # noqa: PTH115 - ..
    return None, ""


def _text(path: Path) -> str | None:
    """A file's text; None: it is not there, or cannot be read now."""
    try:
        with path.open() as file:
            return file.read().replace("\0", "").strip()
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
