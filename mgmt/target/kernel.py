"""The same target description for the Linux kernel's target: ``target.toml`` to :mod:`iscsi_target.lio.model`.

What only the emulator can do is refused by name, before anything is changed; what only the kernel knows stands in
tables called ``lio``, which the emulator passes over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from iscsi_target.lio.model import (
    Acl,
    AluaGroup,
    Backstore,
    Description,
    Discovery,
    KernelTarget,
    Login,
    Lun,
    MappedLun,
    Plugin,
    Portal,
    PortalGroup,
    check,
)
from iscsi_target.scsi.logical_unit import DeviceType, LogicalUnitConfig, derive_identity
from iscsi_target.scsi.stores.description import parse_size
from iscsi_target.session.access import AccessRule
from iscsi_target.session.parameters import FIELDS, Parameters
from mgmt.target.configuration import LunConfig, SecretReader, ServeConfig, TargetConfig, load
from mgmt.target.table import ConfigurationError, Table, load_document

_DEMO = {
    "generate_node_acls": "1",
    "cache_dynamic_acls": "1",
    "demo_mode_write_protect": "0",
}
_STATES = {
    "active/optimized": 0,
    "active/non-optimized": 1,
    "standby": 2,
    "unavailable": 3,
    "offline": 14,
    "transitioning": 15,
}
_NOT_LIO = ("task_reporting", "iscsi_protocol_level")
_SAID_NOWHERE = (
    "removable",
    "vendor",
    "product",
    "revision",
    "physical_block_exponent",
    "sanitize_bytes_per_s",
)


def describe(path: Path, read_secret: SecretReader) -> Description:
    """The description in a file. Raises ConfigurationError, and InvalidDescription for what LIO could not do."""
    found = _translated(path, read_secret)
    check(found)
    return found


def _translated(path: Path, read_secret: SecretReader) -> Description:
    config = load(path, read_secret)
    document = load_document(path)
    tables = document.tables("target")
    stores: list[Backstore] = []
    targets = []
    for number, target in enumerate(config.targets):
        table = tables[number] if number < len(tables) else Table({}, str(path))
        targets.append(_target(config, target, table, stores, path.parent))
    return Description(
        backstores=stores,
        targets=targets,
        discovery=_discovery(document.table("lio"), path.parent, read_secret),
    )


def _discovery(table: Table, here: Path, read_secret: SecretReader) -> Sequence[Discovery]:
    if not table.has("discovery"):
        table.done()
        return ()
    one = table.table("discovery")
    table.done()
    logins: list[Login | None] = []
    for prefix in ("", "mutual_"):
        user, file = one.text(f"{prefix}user"), one.text(f"{prefix}secret_file")
        if (user is None) != (file is None):
            raise one.error(f"{prefix}user", f"it goes with {prefix}secret_file")
        logins.append(Login(user, _secret(read_secret(here / file))) if user and file else None)
    enforced = one.truth("enforced", True)
    one.done()
    return (Discovery(enforced=enforced, login=logins[0], mutual_login=logins[1]),)


def _secret(secret: bytes) -> str:
    try:
        return secret.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigurationError("the kernel takes CHAP secrets of ASCII characters only") from None


def _settings(table: Table, key: str) -> dict[str, str]:
    found = table.table(key)
    values = {}
    for name in table.raw(key) or {}:
        value = found.raw(name)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise found.error(name, f"text or a whole number is expected, not {value!r:.60}")
        values[name] = str(value)
    return values


def _target(
    config: ServeConfig, target: TargetConfig, table: Table, stores: list[Backstore], here: Path
) -> KernelTarget:
    where = f"target {target.iqn}"
    if target.moved_to:
        raise ConfigurationError(f"{where}: moved_to: the kernel's target sends no login elsewhere")
    own = table.table("lio")
    attributes, parameters = _settings(own, "attributes"), _settings(own, "parameters")
    own.done()
    lun_tables = table.tables("lun")
    luns = []
    for number, lun in enumerate(target.luns):
        inner = lun_tables[number].table("lio") if number < len(lun_tables) else Table({}, where)
        store, group = _backstore(target, lun, inner, here)
        stores.append(store)
        luns.append(Lun(number=lun.number, plugin=store.plugin, backstore=store.name, alua_group=group))
    login, mutual = _logins(target, where)
    acls = _acls(target, where, login, mutual)
    demo = {} if acls is not None else dict(_DEMO)
    if acls is None and any(lun.config is not None and lun.config.read_only for lun in target.luns):
        demo["demo_mode_write_protect"] = _write_protected(target, where)
    settings = {"authentication": str(int(login is not None)), "generate_node_acls": "0"} | demo | attributes
    wishes = _parameters(table.table("parameters"), target.parameters)
    if target.alias:
        wishes["TargetAlias"] = target.alias
    groups = []
    for tag in sorted({portal.portal_group_tag for portal in config.portals}):
        portals = [
            Portal(address=portal.host, port=portal.port)
            for portal in config.portals
            if portal.portal_group_tag == tag
        ]
        groups.append(
            PortalGroup(
                tag=tag,
                luns=luns,
                portals=portals,
                acls=acls or (),
                login=None if acls is not None else login,
                mutual_login=None if acls is not None else mutual,
                attributes=settings,
                parameters=wishes | parameters,
            )
        )
    return KernelTarget(wwn=target.iqn, groups=groups)


def _write_protected(target: TargetConfig, where: str) -> str:
    if all(lun.config is not None and lun.config.read_only for lun in target.luns):
        return "1"
    raise ConfigurationError(
        f"{where}: without access lists the kernel has all LUNs read-only or none; say initiators in [[target.access]]"
    )


def _logins(target: TargetConfig, where: str) -> tuple[Login | None, Login | None]:
    if target.chap is None:
        return None, None
    if len(target.chap.accepted) != 1:
        raise ConfigurationError(
            f"{where}: chap: the kernel knows one user for a portal group or an initiator"
        )
    known, own = target.chap.accepted[0], target.chap.own
    return Login(known.name, _secret(known.secret)), None if own is None else Login(
        own.name, _secret(own.secret)
    )


def _acls(target: TargetConfig, where: str, login: Login | None, mutual: Login | None) -> list[Acl] | None:
    """None: everybody may log in."""
    if target.access is None and target.allowed_initiators is None:
        return None
    rules = () if target.access is None else target.access.rules
    found: dict[str, Acl] = {}
    for rule in (*rules, *_whole(target)):
        if rule.networks or rule.chap_names or not rule.initiators:
            raise ConfigurationError(
                f"{where}: access: the kernel tells initiators apart by their names alone, not by addresses or CHAP"
            )
        for name in sorted(rule.initiators):
            found.setdefault(
                name,
                Acl(initiator=name, mapped_luns=_mapped(target, rule), login=login, mutual_login=mutual),
            )
    return list(found.values())


def _whole(target: TargetConfig) -> Sequence[AccessRule]:
    names = target.allowed_initiators
    return (AccessRule(initiators=names),) if names else ()


def _mapped(target: TargetConfig, rule: AccessRule) -> list[MappedLun]:
    own = {lun.number: lun for lun in target.luns}
    seen = rule.luns if rule.luns is not None else {number: number for number in own}
    mapped = []
    for number, behind in sorted(seen.items()):
        config = own[behind].config if behind in own else None
        read_only = (
            rule.read_only or number in rule.read_only_luns or (config is not None and config.read_only)
        )
        mapped.append(MappedLun(number=number, lun=behind, read_only=read_only))
    return mapped


def _parameters(table: Table, parameters: Parameters) -> dict[str, str]:
    """What the file says, in the kernel's words; what it does not say stays as the kernel has it."""
    found = {}
    for key, field in FIELDS.items():
        if not table.has(field) or field in _NOT_LIO:
            continue
        value: Any = getattr(parameters, field)
        if isinstance(value, bool):
            found[key] = "Yes" if value else "No"
        else:
            found[key] = ",".join(value) if isinstance(value, tuple) else str(value)
    return found


def _backstore(
    target: TargetConfig, lun: LunConfig, table: Table, here: Path
) -> tuple[Backstore, str | None]:
    where = f"target {target.iqn}: LUN {lun.number}"
    config = lun.config or LogicalUnitConfig()
    _check_unit(config, where)
    plugin, given = _store(lun.store, where)
    given["write_back"] = config.write_cache if plugin is Plugin.FILEIO else None
    named = table.text("backstore")
    if named is not None:
        plugin, given = _other(plugin, given, named, lun.store, table)
    size = table.size("size")
    if size is not None:
        given["size_bytes"] = size
    if table.has("aio"):
        given["aio"] = table.truth("aio")
    attributes = _settings(table, "attributes")
    if config.block_length != 512:
        attributes = {"block_size": str(config.block_length)} | attributes
    groups = [_alua(one) for one in table.tables("alua")]
    group = table.text("alua_group")
    name = table.text("name") or _name(target.iqn, lun.number)
    serial = None if plugin is Plugin.PSCSI else derive_identity(target.iqn, lun.number).serial
    table.done()
    store = Backstore(
        plugin=plugin, name=name, serial=serial, attributes=attributes, alua_groups=groups, **given
    )
    return store, group


def _check_unit(config: LogicalUnitConfig, where: str) -> None:
    if config.device_type is not DeviceType.DISK:
        raise ConfigurationError(f"{where}: the kernel's target has disks only, no CD-ROM")
    usual = {entry.name: entry.default for entry in fields(LogicalUnitConfig)}
    for name in _SAID_NOWHERE:
        if getattr(config, name) != usual[name]:
            raise ConfigurationError(
                f"{where}: {name}: the kernel's target presents its disks in its own way"
            )


def _store(text: str, where: str) -> tuple[Plugin, dict[str, Any]]:
    kind, colon, rest = text.partition(":")
    if colon and kind == "snapshot":
        raise ConfigurationError(f"{where}: {text:.120}: the kernel's target has no snapshots")
    if colon and kind == "null":
        return Plugin.RAMDISK, {"size_bytes": parse_size(rest), "nullio": True}
    if colon and kind == "direct":
        text = rest
    size = parse_size(text)
    if size is not None:
        return Plugin.RAMDISK, {"size_bytes": size}
    path = Path(text).absolute()
    if path.is_block_device():
        return Plugin.BLOCK, {"device": str(path)}
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{where}: {path} is neither a file nor a block device")
    return Plugin.FILEIO, {"device": str(path), "size_bytes": path.stat().st_size if path.is_file() else None}


def _other(
    plugin: Plugin, given: Mapping[str, Any], named: str, store: str, table: Table
) -> tuple[Plugin, dict[str, Any]]:
    """Another kind of backstore than the store would have."""
    try:
        wanted = Plugin(named)
    except ValueError:
        known = ", ".join(kind.value for kind in Plugin)
        raise table.error("backstore", f"one of {known} is expected, not {named!r:.40}") from None
    if wanted is Plugin.USER:
        config = table.text("config")
        if config is None:
            raise table.error("config", "a user backstore has one: HANDLER/…")
        return wanted, {"size_bytes": given.get("size_bytes"), "config": config}
    if wanted is Plugin.PSCSI:
        return wanted, {"device": given.get("device", store)}
    if (wanted is Plugin.RAMDISK) != (plugin is Plugin.RAMDISK):
        raise table.error("backstore", f"a store of {store!r:.80} cannot be {wanted.value}")
    kept = {"device": given.get("device")} if wanted is Plugin.BLOCK else dict(given)
    return wanted, kept


def _alua(table: Table) -> AluaGroup:
    name, tag = table.text("name"), table.integer("tag", low=1, high=0xFFFF)
    state, preferred = table.text("state"), table.truth("preferred")
    settings = {key: int(value) for key, value in _settings(table, "settings").items() if value.isdigit()}
    table.done()
    if name is None or tag is None:
        raise table.error("name", "an ALUA group has a name and a tag")
    if state is not None:
        if state not in _STATES:
            raise table.error("state", f"one of {', '.join(_STATES)} is expected, not {state!r:.40}")
        settings["alua_access_state"] = _STATES[state]
    if preferred:
        settings["preferred"] = 1
    return AluaGroup(name=name, tag=tag, settings=settings)


def _name(iqn: str, lun: int) -> str:
    """A backstore's name: the part of the target's name after the colon, and the LUN."""
    tail = iqn.partition(":")[2] or iqn
    return f"{re.sub(r'[^A-Za-z0-9.-]', '-', tail)[:200]}-{lun}"
