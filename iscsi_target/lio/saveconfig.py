# SPDX-License-Identifier: Apache-2.0
"""targetcli's ``saveconfig.json``, read and written without loss: what this module does not know is carried along.

The format is rtslib's `RTSRoot.dump()`. A CHAP secret stands in it in clear text, so the file is its owner's alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from iscsi_target.lio.errors import InvalidDescription
from iscsi_target.lio.model import (
    Acl,
    AluaGroup,
    Backstore,
    Description,
    Discovery,
    Extra,
    KernelTarget,
    Login,
    Lun,
    MappedLun,
    Plugin,
    Portal,
    PortalGroup,
)

T = TypeVar("T")
_LARGEST_BYTES = 256 << 20
_STORE_FIELDS = {
    "size": "size_bytes",
    "dev": "device",
    "wwn": "serial",
    "write_back": "write_back",
    "readonly": "read_only",
    "aio": "aio",
    "nullio": "nullio",
    "config": "config",
    "hw_max_sectors": "hw_max_sectors",
    "control": "control",
}
_PREFIX = "/backstores/"


class _Reader:
    """One object of the file; every wrong value is one line that says where it stands."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise InvalidDescription(f"{where}: an object is expected, not {value!r:.60}")
        self.where = where
        self._left: dict[str, Any] = dict(value)

    def _wrong(self, key: str, what: str, value: Any) -> InvalidDescription:
        return InvalidDescription(f"{self.where}: {key}: {what} is expected, not {value!r:.60}")

    def _take(self, key: str, kind: type[T], what: str) -> T | None:
        if self._left.get(key) is None:
            return None  # a null stays where it is: it comes out again
        value = self._left.pop(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._wrong(key, what, value)
        return value

    def text(self, key: str) -> str | None:
        return self._take(key, str, "text")

    def number(self, key: str) -> int | None:
        return self._take(key, int, "a whole number")

    def flag(self, key: str) -> bool | None:
        return self._take(key, bool, "true or false")

    def needed(self, key: str, value: T | None) -> T:
        if value is None:
            raise InvalidDescription(f"{self.where}: {key} is missing")
        return value

    def objects(self, key: str, what: Callable[[Any, int], str]) -> list[_Reader]:
        found = self._take(key, list, "a list") or []
        return [_Reader(value, f"{self.where}: {what(value, n)}") for n, value in enumerate(found, 1)]

    def settings(self, key: str) -> dict[str, str]:
        """Names with texts or numbers."""
        found = self._take(key, dict, "an object") or {}
        for name, value in found.items():
            if not isinstance(value, str | int) or isinstance(value, bool) or "/" in name:
                raise self._wrong(f"{key}: {name}", "text or a number", value)
        return {name: str(value) for name, value in found.items()}

    def login(self, prefix: str) -> Login | None:
        user, secret = self.text(f"{prefix}userid"), self.text(f"{prefix}password")
        if user is None and secret is None:
            return None
        return Login(user or "", secret or "")

    def rest(self) -> Extra:
        return self._left


def load(path: Path) -> Description:
    """The description in a file. Raises :class:`InvalidDescription`."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InvalidDescription(f"cannot read {path}: {(error.strerror or '').lower()}") from None
    if len(data) > _LARGEST_BYTES:
        raise InvalidDescription(f"{path} is longer than {_LARGEST_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidDescription(f"{path} is not JSON: {error}") from None
    return from_document(document, str(path))


def save(description: Description, path: Path) -> None:
    """Write it as targetcli does: whole or not at all, mode 0600. Raises OSError."""
    beside = path.with_name(f"{path.name}.temp")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(dumps(description))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def dumps(description: Description) -> str:
    """The text of the file."""
    return json.dumps(to_document(description), sort_keys=True, indent=2) + "\n"


def from_document(document: Any, where: str = "saveconfig") -> Description:
    """The description in the parsed file. Raises :class:`InvalidDescription`."""
    top = _Reader(document, where)
    if "storage_objects" not in document and "targets" not in document:
        raise InvalidDescription(f"{where}: there are neither storage_objects nor targets in it")
    return Description(
        backstores=[
            _backstore(one)
            for one in top.objects(
                "storage_objects", lambda value, n: f"storage object {_named(value, 'name', n)}"
            )
        ],
        targets=[
            _target(one)
            for one in top.objects("targets", lambda value, n: f"target {_named(value, 'wwn', n)}")
        ],
        discovery=[
            _discovery(one) for one in top.objects("fabric_modules", lambda _value, n: f"fabric module {n}")
        ],
        extra=top.rest(),
    )


def _named(value: Any, key: str, number: int) -> str:
    name = value.get(key) if isinstance(value, dict) else None
    return f"{name:.230}" if isinstance(name, str) else str(number)


def _plugin(reader: _Reader, text: str | None) -> Plugin:
    try:
        return Plugin(text)
    except ValueError:
        known = ", ".join(plugin.value for plugin in Plugin)
        raise InvalidDescription(f"{reader.where}: plugin is one of {known}, not {text!r:.60}") from None


def _backstore(one: _Reader) -> Backstore:
    return Backstore(
        plugin=_plugin(one, one.text("plugin")),
        name=one.needed("name", one.text("name")),
        attributes=one.settings("attributes"),
        alua_groups=[
            _alua(group)
            for group in one.objects("alua_tpgs", lambda v, n: f"ALUA group {_named(v, 'name', n)}")
        ],
        size_bytes=one.number("size"),
        device=one.text("dev"),
        serial=one.text("wwn"),
        write_back=one.flag("write_back"),
        read_only=one.flag("readonly"),
        aio=one.flag("aio"),
        nullio=one.flag("nullio"),
        config=one.text("config"),
        hw_max_sectors=one.number("hw_max_sectors"),
        control=one.text("control"),
        extra=one.rest(),
    )


def _alua(one: _Reader) -> AluaGroup:
    name, tag = one.needed("name", one.text("name")), one.number("tg_pt_gp_id")
    rest = one.rest()
    settings = {key: value for key, value in rest.items() if type(value) is int}
    extra = {key: value for key, value in rest.items() if key not in settings}
    return AluaGroup(name=name, tag=one.needed("tg_pt_gp_id", tag), settings=settings, extra=extra)


def _discovery(one: _Reader) -> Discovery:
    return Discovery(
        fabric=one.needed("name", one.text("name")),
        enforced=one.flag("discovery_enable_auth"),
        login=one.login("discovery_"),
        mutual_login=one.login("discovery_mutual_"),
        extra=one.rest(),
    )


def _target(one: _Reader) -> KernelTarget:
    return KernelTarget(
        wwn=one.needed("wwn", one.text("wwn")),
        fabric=one.needed("fabric", one.text("fabric")),
        parameters=one.settings("parameters"),
        groups=[_group(group) for group in one.objects("tpgs", lambda v, n: f"portal group {n}")],
        extra=one.rest(),
    )


def _group(one: _Reader) -> PortalGroup:
    return PortalGroup(
        tag=one.needed("tag", one.number("tag")),
        enabled=one.flag("enable"),
        luns=[_lun(lun) for lun in one.objects("luns", lambda v, n: f"LUN entry {n}")],
        portals=[_portal(portal) for portal in one.objects("portals", lambda v, n: f"portal {n}")],
        acls=[_acl(acl) for acl in one.objects("node_acls", lambda v, n: f"ACL {_named(v, 'node_wwn', n)}")],
        login=one.login("chap_"),
        mutual_login=one.login("chap_mutual_"),
        attributes=one.settings("attributes"),
        parameters=one.settings("parameters"),
        extra=one.rest(),
    )


def _lun(one: _Reader) -> Lun:
    behind = one.needed("storage_object", one.text("storage_object"))
    plugin, slash, name = behind.removeprefix(_PREFIX).partition("/")
    if not behind.startswith(_PREFIX) or not slash:
        raise InvalidDescription(f"{one.where}: storage_object is {_PREFIX}PLUGIN/NAME, not {behind!r:.120}")
    return Lun(
        number=one.needed("index", one.number("index")),
        plugin=_plugin(one, plugin),
        backstore=name,
        alias=one.text("alias"),
        alua_group=one.text("alua_tg_pt_gp_name"),
        extra=one.rest(),
    )


def _portal(one: _Reader) -> Portal:
    address = one.needed("ip_address", one.text("ip_address"))
    return Portal(
        address=address.removeprefix("[").removesuffix("]"),
        port=one.needed("port", one.number("port")),
        iser=one.flag("iser"),
        offload=one.flag("offload"),
        extra=one.rest(),
    )


def _acl(one: _Reader) -> Acl:
    return Acl(
        initiator=one.needed("node_wwn", one.text("node_wwn")),
        mapped_luns=[
            _mapped(lun) for lun in one.objects("mapped_luns", lambda v, n: f"mapped LUN entry {n}")
        ],
        login=one.login("chap_"),
        mutual_login=one.login("chap_mutual_"),
        tag=one.text("tag"),
        queue_depth=one.number("tcq_depth"),
        attributes=one.settings("attributes"),
        extra=one.rest(),
    )


def _mapped(one: _Reader) -> MappedLun:
    return MappedLun(
        number=one.needed("index", one.number("index")),
        lun=one.needed("tpg_lun", one.number("tpg_lun")),
        read_only=one.flag("write_protect"),
        alias=one.text("alias"),
        extra=one.rest(),
    )


# -- and back ---------------------------------------------------------------------------------------------------


def to_document(description: Description) -> dict[str, Any]:
    """The parsed file of a description: what it does not say is not in it."""
    document = {
        "storage_objects": [_store_object(store) for store in description.backstores],
        "targets": [_target_object(target) for target in description.targets],
        "fabric_modules": [
            _said(
                one.extra,
                name=one.fabric,
                discovery_enable_auth=one.enforced,
                **_login_object("discovery_", one.login, one.mutual_login),
            )
            for one in description.discovery
        ],
    }
    return dict(description.extra) | document


def _said(extra: Extra, **values: Any) -> dict[str, Any]:
    return dict(extra) | {name: value for name, value in values.items() if value is not None}


def _login_object(prefix: str, own: Login | None, mutual: Login | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for login, name in ((own, prefix), (mutual, f"{prefix}mutual_")):
        if login is not None:
            found |= {f"{name}userid": login.user, f"{name}password": login.secret}
    return {key: value for key, value in found.items() if value}


def _numbers(values: Mapping[str, str]) -> dict[str, int | str] | None:
    """Attributes as rtslib dumps them: numbers where they are."""
    found: dict[str, int | str] = {}
    for name, value in values.items():
        digits = value.removeprefix("-")
        found[name] = int(value) if digits.isascii() and digits.isdigit() else value
    return found or None


def _store_object(store: Backstore) -> dict[str, Any]:
    values = {key: getattr(store, field) for key, field in _STORE_FIELDS.items()}
    return _said(
        store.extra,
        plugin=store.plugin.value,
        name=store.name,
        attributes=_numbers(store.attributes),
        alua_tpgs=[
            _said(group.extra, name=group.name, tg_pt_gp_id=group.tag, **group.settings)
            for group in store.alua_groups
        ],
        **values,
    )


def _target_object(target: KernelTarget) -> dict[str, Any]:
    return _said(
        target.extra,
        wwn=target.wwn,
        fabric=target.fabric,
        parameters=dict(target.parameters) or None,
        tpgs=[_group_object(group) for group in target.groups],
    )


def _group_object(group: PortalGroup) -> dict[str, Any]:
    return _said(
        group.extra,
        tag=group.tag,
        enable=group.enabled,
        attributes=_numbers(group.attributes),
        parameters=dict(group.parameters) or None,
        luns=[
            _said(
                lun.extra,
                index=lun.number,
                storage_object=f"{_PREFIX}{lun.plugin.value}/{lun.backstore}",
                alias=lun.alias,
                alua_tg_pt_gp_name=lun.alua_group,
            )
            for lun in group.luns
        ],
        portals=[_portal_object(portal) for portal in group.portals],
        node_acls=[_acl_object(acl) for acl in group.acls],
        **_login_object("chap_", group.login, group.mutual_login),
    )


def _portal_object(portal: Portal) -> dict[str, Any]:
    address = f"[{portal.address}]" if ":" in portal.address else portal.address
    return _said(portal.extra, ip_address=address, port=portal.port, iser=portal.iser, offload=portal.offload)


def _acl_object(acl: Acl) -> dict[str, Any]:
    return _said(
        acl.extra,
        node_wwn=acl.initiator,
        attributes=_numbers(acl.attributes),
        tag=acl.tag,
        tcq_depth=acl.queue_depth,
        mapped_luns=[_mapped_object(mapped) for mapped in acl.mapped_luns],
        **_login_object("chap_", acl.login, acl.mutual_login),
    )


def _mapped_object(mapped: MappedLun) -> dict[str, Any]:
    return _said(
        mapped.extra,
        index=mapped.number,
        tpg_lun=mapped.lun,
        write_protect=mapped.read_only,
        alias=mapped.alias,
    )
