# SPDX-License-Identifier: Apache-2.0
"""A description as a flat table of nodes, one for each directory that configfs has or should have.

A node has what it is made of, which cannot change while it exists, and settings, each a file beneath its directory. A
key's path is that of its parent and one more word, so the tree needs no pointers.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from iscsi_target.lio.model import (
    Acl,
    AluaGroup,
    Backstore,
    Description,
    Discovery,
    KernelTarget,
    Login,
    MappedLun,
    Plugin,
    PortalGroup,
)

Made = str | int | bool | None
PAGE_BYTES = 4096
DEFAULT_ALUA_GROUP = "default_tg_pt_gp"
_SERIALS = uuid.UUID("5a1c5ed1-7000-4000-8000-000000000000")


class Kind(Enum):
    """What a node is, in the order in which nodes are made."""

    BACKSTORE = 0
    ALUA_GROUP = 1
    DISCOVERY = 2
    TARGET = 3
    GROUP = 4
    LUN = 5
    ACL = 6
    MAPPED_LUN = 7
    PORTAL = 8


class Key(NamedTuple):
    """A node's name: what it is and where it stands."""

    kind: Kind
    path: tuple[str, ...]

    @property
    def parent(self) -> Key | None:
        """The node without which this one cannot be."""
        above = PARENTS[self.kind]
        return None if above is None else Key(above, self.path[:-1])

    def __str__(self) -> str:
        return _WORDS[self.kind].format(*self.path)


PARENTS: Mapping[Kind, Kind | None] = {
    Kind.BACKSTORE: None,
    Kind.ALUA_GROUP: Kind.BACKSTORE,
    Kind.DISCOVERY: None,
    Kind.TARGET: None,
    Kind.GROUP: Kind.TARGET,
    Kind.LUN: Kind.GROUP,
    Kind.ACL: Kind.GROUP,
    Kind.MAPPED_LUN: Kind.ACL,
    Kind.PORTAL: Kind.GROUP,
}
_WORDS: Mapping[Kind, str] = {
    Kind.BACKSTORE: "backstore {0}/{1}",
    Kind.ALUA_GROUP: "ALUA group {2} of {0}/{1}",
    Kind.DISCOVERY: "discovery of {0}",
    Kind.TARGET: "target {1}",
    Kind.GROUP: "portal group {2} of {1}",
    Kind.LUN: "LUN {3} of {1} group {2}",
    Kind.ACL: "ACL {3} of {1} group {2}",
    Kind.MAPPED_LUN: "LUN {4} of {3} at {1} group {2}",
    Kind.PORTAL: "portal {3} of {1} group {2}",
}
SECRET = (
    "auth/password",
    "auth/password_mutual",
    "discovery_auth/password",
    "discovery_auth/password_mutual",
)


@dataclass(frozen=True, slots=True)
class Node:
    """One directory: `made_of` None values are not said, and match anything. `settings`: file → text."""

    key: Key
    made_of: Mapping[str, Made] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    links: tuple[Key, ...] = ()
    """Nodes that this one points to, beside its parent: a LUN's backstore, a mapped LUN's LUN."""


Nodes = dict[Key, Node]


def nodes_of(description: Description) -> Nodes:
    """The table, parents before children."""
    found: Nodes = {}

    def add(node: Node) -> None:
        found[node.key] = node

    for store in description.backstores:
        add(_backstore(store))
        for group in store.alua_groups:
            add(_alua_group(store, group))
    for one in description.discovery:
        add(_discovery(one))
    for target in description.targets:
        top = (target.fabric, target.wwn.lower())  # as rtslib writes it, whatever it was told
        add(Node(Key(Kind.TARGET, top), {}, _prefixed("param", target.parameters)))
        for portals in target.groups:
            _group(target, portals, add)
    return found


def _group(target: KernelTarget, group: PortalGroup, add: Callable[[Node], None]) -> None:
    path = (target.fabric, target.wwn.lower(), str(group.tag))
    settings = _prefixed("attrib", group.attributes) | _prefixed("param", group.parameters)
    settings |= _login("auth", group.login, group.mutual_login)
    if group.enabled is not None:
        settings["enable"] = str(int(group.enabled))
    add(Node(Key(Kind.GROUP, path), {}, settings))
    for lun in group.luns:
        store = Key(Kind.BACKSTORE, (lun.plugin.value, lun.backstore))
        made: dict[str, Made] = {"backstore": "/".join(store.path), "alias": lun.alias}
        wishes = {} if lun.alua_group is None else {"alua_tg_pt_gp": lun.alua_group}
        add(Node(Key(Kind.LUN, (*path, str(lun.number))), made, wishes, (store,)))
    for acl in group.acls:
        _acl(path, acl, add)
    for portal in group.portals:
        address = f"[{portal.address}]" if ":" in portal.address else portal.address
        flags = {"iser": portal.iser, "cxgbit": portal.offload}
        wishes = {name: str(int(flag)) for name, flag in flags.items() if flag is not None}
        add(Node(Key(Kind.PORTAL, (*path, f"{address}:{portal.port}")), {}, wishes))


def _acl(group: tuple[str, ...], acl: Acl, add: Callable[[Node], None]) -> None:
    path = (*group, acl.initiator.lower())
    settings = _prefixed("attrib", acl.attributes) | _login("auth", acl.login, acl.mutual_login)
    if acl.queue_depth is not None:
        settings["cmdsn_depth"] = str(acl.queue_depth)
    if acl.tag is not None:
        settings["tag"] = acl.tag
    add(Node(Key(Kind.ACL, path), {}, settings))
    for mapped in acl.mapped_luns:
        add(_mapped_lun(path, mapped))


def _mapped_lun(acl: tuple[str, ...], mapped: MappedLun) -> Node:
    behind = Key(Kind.LUN, (*acl[:3], str(mapped.lun)))
    made: dict[str, Made] = {"lun": mapped.lun, "alias": mapped.alias}
    settings = {} if mapped.read_only is None else {"write_protect": str(int(mapped.read_only))}
    return Node(Key(Kind.MAPPED_LUN, (*acl, str(mapped.number))), made, settings, (behind,))


def _backstore(store: Backstore) -> Node:
    size = store.size_bytes
    if (
        size is not None and store.plugin is Plugin.RAMDISK
    ):  # rtslib rounds to pages, and half a page to an even one
        size = max(1, round(size / PAGE_BYTES)) * PAGE_BYTES
    made: dict[str, Made] = {
        "size": size,
        "device": store.device,
        "serial": store.serial,
        "read_only": store.read_only,
        "aio": store.aio,
        "nullio": store.nullio,
        "config": store.config,
        "hw_max_sectors": store.hw_max_sectors,
        "control": store.control,
    }
    if store.plugin is Plugin.FILEIO:
        made["write_back"] = store.write_back
    said = {name: value for name, value in made.items() if value is not None}
    return Node(
        Key(Kind.BACKSTORE, (store.plugin.value, store.name)), said, _prefixed("attrib", store.attributes)
    )


def serial_of(key: Key) -> str:
    """The serial number of a backstore that is told none: the same each time it is made."""
    return str(uuid.uuid5(_SERIALS, "/".join(key.path)))


def _alua_group(store: Backstore, group: AluaGroup) -> Node:
    key = Key(Kind.ALUA_GROUP, (store.plugin.value, store.name, group.name))
    made: dict[str, Made] = {} if group.name == DEFAULT_ALUA_GROUP else {"tag": group.tag}
    return Node(key, made, {name: str(value) for name, value in group.settings.items()})


def _discovery(one: Discovery) -> Node:
    settings = _login("discovery_auth", one.login, one.mutual_login)
    if one.enforced is not None:
        settings["discovery_auth/enforce_discovery_auth"] = str(int(one.enforced))
    return Node(Key(Kind.DISCOVERY, (one.fabric,)), {}, settings)


def _login(folder: str, own: Login | None, mutual: Login | None) -> dict[str, str]:
    found = {}
    for login, suffix in ((own, ""), (mutual, "_mutual")):
        if login is not None:
            found[f"{folder}/userid{suffix}"] = login.user
            found[f"{folder}/password{suffix}"] = login.secret
    return found


def _prefixed(folder: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": value for name, value in values.items()}
