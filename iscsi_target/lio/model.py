# SPDX-License-Identifier: Apache-2.0
"""What the kernel's target is asked to be: frozen values, the same for a description of ours and for a saveconfig file.

``None`` means "not said": the kernel's own value stays. ``attributes`` and ``parameters`` are named as in configfs.
``extra`` holds what a saveconfig file says and the driver does not know, so that nothing is lost on the way through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from iscsi_target.lio.errors import InvalidDescription

Extra = Mapping[str, Any]


class Plugin(Enum):
    """What stores a backstore's blocks; the values are rtslib's names."""

    RAMDISK = "ramdisk"
    FILEIO = "fileio"
    BLOCK = "block"
    PSCSI = "pscsi"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Login:
    """CHAP credentials of one direction; the secret does not show."""

    user: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AluaGroup:
    """A target port group of a logical unit (SPC-5 5.17). `settings` are configfs' names and numbers."""

    name: str
    tag: int
    settings: Mapping[str, int] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backstore:
    """A storage object. Which fields it takes depends on `plugin`: :func:`check` says."""

    plugin: Plugin
    name: str
    size_bytes: int | None = None
    device: str | None = None
    """Path of the file or block device; for pscsi also H:C:T:L."""
    serial: str | None = None
    """T10 unit serial number."""
    write_back: bool | None = None
    read_only: bool | None = None
    aio: bool | None = None
    nullio: bool | None = None
    """A ramdisk without memory: takes everything, gives what it likes."""
    config: str | None = None
    """Of a user backstore: HANDLER/…"""
    hw_max_sectors: int | None = None
    control: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    alua_groups: Sequence[AluaGroup] = ()
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lun:
    """A LUN of a portal group, and the backstore behind it."""

    number: int
    plugin: Plugin
    backstore: str
    alias: str | None = None
    alua_group: str | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """Where a portal group listens; IPv6 addresses without brackets."""

    address: str
    port: int
    iser: bool | None = None
    offload: bool | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedLun:
    """A LUN as one initiator sees it."""

    number: int
    lun: int
    read_only: bool | None = None
    alias: str | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acl:
    """An initiator that may log in."""

    initiator: str
    mapped_luns: Sequence[MappedLun] = ()
    login: Login | None = None
    mutual_login: Login | None = None
    tag: str | None = None
    """Name of a group of initiators."""
    queue_depth: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalGroup:
    """A target portal group."""

    tag: int = 1
    enabled: bool | None = True
    luns: Sequence[Lun] = ()
    portals: Sequence[Portal] = ()
    acls: Sequence[Acl] = ()
    login: Login | None = None
    mutual_login: Login | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTarget:
    """A target of a fabric: iscsi, loopback, vhost, tcm_fc, qla2xxx."""

    wwn: str
    fabric: str = "iscsi"
    groups: Sequence[PortalGroup] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Authentication of discovery sessions."""

    fabric: str = "iscsi"
    enforced: bool | None = None
    login: Login | None = None
    mutual_login: Login | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """All that is wanted of the kernel."""

    backstores: Sequence[Backstore] = ()
    targets: Sequence[KernelTarget] = ()
    discovery: Sequence[Discovery] = ()
    extra: Extra = field(default_factory=dict)


#: What each plugin has to be told, and what it may be told beside.
_NEEDS: Mapping[Plugin, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Plugin.RAMDISK: (("size_bytes",), ("nullio",)),
    Plugin.FILEIO: (("device",), ("size_bytes", "write_back", "aio")),
    Plugin.BLOCK: (("device",), ("read_only", "write_back")),
    Plugin.PSCSI: (("device",), ()),
    Plugin.USER: (("size_bytes", "config"), ("hw_max_sectors", "control")),
}
_OPTIONS = (
    *("size_bytes", "device", "write_back", "read_only", "aio", "nullio"),
    *("config", "hw_max_sectors", "control"),
)
_IQN = re.compile(r"iqn\.\d{4}-[01]\d\.[^._ ]*\.[^_ ]*")
_NAA, _EUI = re.compile(r"naa\.[125c-fC-F][0-9a-fA-F]{15}"), re.compile(r"eui\.[0-9a-f]{16}")
_LARGEST_LUN, _LARGEST_TAG, _LARGEST_NAME = 65535, 65535, 223
_LONGEST_SECRET = 255


def check(description: Description) -> None:
    """Raises :class:`InvalidDescription` for what the kernel or rtslib would refuse half-way through."""
    known: set[tuple[Plugin, str]] = set()
    for store in description.backstores:
        _check_backstore(store)
        _once((store.plugin, store.name), known, f"backstore {store.plugin.value}/{store.name}")
    targets: set[tuple[str, str]] = set()
    for target in description.targets:
        what = f"target {target.wwn:.230}"
        _check_wwn(target, what)
        _once((target.fabric, target.wwn.lower()), targets, what)
        tags: set[int] = set()
        for group in target.groups:
            where = f"{what}: portal group {group.tag}"
            if not 0 <= group.tag <= _LARGEST_TAG:
                raise InvalidDescription(f"{where}: a tag is 0 to {_LARGEST_TAG}")
            _once(group.tag, tags, where)
            _check_group(group, where, known)
    for one in description.discovery:
        _check_logins("discovery", one.login, one.mutual_login)


def _once(key: Any, seen: set[Any], what: str) -> None:
    if key in seen:
        raise InvalidDescription(f"{what} is described twice")
    seen.add(key)


def _check_backstore(store: Backstore) -> None:
    what = f"backstore {store.plugin.value}/{store.name:.80}"
    if not store.name or re.search(r"[/\s]", store.name) or len(store.name) > _LARGEST_NAME:
        raise InvalidDescription(
            f"{what}: a name has no spaces and no /, and at most {_LARGEST_NAME} characters"
        )
    required, allowed = _NEEDS[store.plugin]
    for option in _OPTIONS:
        given = getattr(store, option) is not None
        if option in required and not given:
            raise InvalidDescription(f"{what}: it needs {option}")
        if given and option not in required + allowed:
            raise InvalidDescription(f"{what}: {option} is not for {store.plugin.value}")
    if store.size_bytes is not None and not 512 <= store.size_bytes <= 1 << 62:
        raise InvalidDescription(f"{what}: {store.size_bytes} is no size in bytes")
    if store.config is not None and ("/" not in store.config or ":" in store.config):
        raise InvalidDescription(f"{what}: config is HANDLER/…, without a colon")
    for text in (store.device, store.config):
        if text is not None and re.search(r"[,\n]", text):
            raise InvalidDescription(f"{what}: the kernel takes no comma or line end in {text!r:.120}")
    if store.serial is not None and not re.fullmatch(r"[!-~]{1,253}", store.serial):
        raise InvalidDescription(f"{what}: a serial number is 1 to 253 printable characters")
    tags: set[int] = set()
    for group in store.alua_groups:
        if not re.fullmatch(r"[^/\s]{1,128}", group.name):
            raise InvalidDescription(f"{what}: {group.name!r:.60} is no name of an ALUA group")
        if group.name != "default_tg_pt_gp" and not 1 <= group.tag <= _LARGEST_TAG:
            raise InvalidDescription(f"{what}: ALUA group {group.name}: a tag is 1 to {_LARGEST_TAG}")
        _once(group.tag, tags, f"{what}: ALUA group {group.tag}")


def _check_wwn(target: KernelTarget, what: str) -> None:
    if target.fabric == "iscsi":
        if len(target.wwn) > _LARGEST_NAME or not any(
            form.fullmatch(target.wwn.lower() if form is _IQN else target.wwn) for form in (_IQN, _NAA, _EUI)
        ):
            raise InvalidDescription(
                f"{what}: the kernel's tools take iqn.YYYY-MM.DOMAIN with a dot in the domain and no underscore,"
                " eui.… or naa.…"
            )
    elif not _NAA.fullmatch(target.wwn):
        raise InvalidDescription(f"{what}: fabric {target.fabric} takes naa.<16 hex>")


def _check_group(group: PortalGroup, where: str, known: set[tuple[Plugin, str]]) -> None:
    luns: set[int] = set()
    for lun in group.luns:
        what = f"{where}: LUN {lun.number}"
        if not 0 <= lun.number <= _LARGEST_LUN:
            raise InvalidDescription(f"{what}: a LUN is 0 to {_LARGEST_LUN}")
        _once(lun.number, luns, what)
        if (lun.plugin, lun.backstore) not in known:
            raise InvalidDescription(f"{what}: there is no backstore {lun.plugin.value}/{lun.backstore:.80}")
    portals: set[tuple[str, int]] = set()
    for portal in group.portals:
        what = f"{where}: portal {portal.address:.60}:{portal.port}"
        if not 1 <= portal.port <= 65535:
            raise InvalidDescription(f"{what}: the kernel listens on a port from 1 to 65535")
        _once((portal.address, portal.port), portals, what)
    _check_logins(where, group.login, group.mutual_login)
    acls: set[str] = set()
    for acl in group.acls:
        what = f"{where}: ACL {acl.initiator:.230}"
        if not acl.initiator or re.search(r"[/\s]", acl.initiator) or len(acl.initiator) > _LARGEST_NAME:
            raise InvalidDescription(f"{what}: that is no name of an initiator")
        if acl.initiator.startswith("iqn.") and not _IQN.fullmatch(acl.initiator.lower()):
            raise InvalidDescription(
                f"{what}: the kernel's tools take iqn.YYYY-MM.DOMAIN with a dot in the domain and no underscore"
            )
        _once(acl.initiator.lower(), acls, what)
        _check_logins(what, acl.login, acl.mutual_login)
        seen: set[int] = set()
        for mapped in acl.mapped_luns:
            _once(mapped.number, seen, f"{what}: LUN {mapped.number}")
            if mapped.lun not in luns:
                raise InvalidDescription(f"{what}: LUN {mapped.number}: the group has no LUN {mapped.lun}")


def _check_logins(where: str, *logins: Login | None) -> None:
    for login in logins:
        for text in () if login is None else (login.user, login.secret):
            if text == "NULL" or len(text) > _LONGEST_SECRET or text != text.strip() or "\n" in text:
                raise InvalidDescription(
                    f"{where}: a CHAP user or secret has at most {_LONGEST_SECRET} characters, no spaces around it,"
                    " and is not the word NULL, with which the kernel means none"
                )
