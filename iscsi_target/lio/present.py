# SPDX-License-Identifier: Apache-2.0
"""From the nodes that were read back to a description: what `export` writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

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
)
from iscsi_target.lio.nodes import Key, Kind, Made, Node, Nodes

_AUTH, _DISCOVERY = "auth", "discovery_auth"


def description_of(nodes: Nodes) -> Description:
    """All that is whole of `nodes`, which were read with all their settings; what is half made is left out."""
    below: dict[Key, list[Node]] = defaultdict(list)
    for node in nodes.values():
        parent = node.key.parent
        if parent is not None:
            below[parent].append(node)
    tops = [node for node in nodes.values() if node.key.parent is None]
    return Description(
        backstores=[
            _backstore(node, below)
            for node in tops
            if node.key.kind is Kind.BACKSTORE and "configured" not in node.made_of
        ],
        targets=[_target(node, below) for node in tops if node.key.kind is Kind.TARGET],
        discovery=[
            _discovery(node)
            for node in tops
            if node.key.kind is Kind.DISCOVERY
            and node.settings.get(f"{_DISCOVERY}/enforce_discovery_auth") == "1"
        ],
    )


def _inner(key: Key, kind: Kind, below: Mapping[Key, list[Node]]) -> list[Node]:
    return [node for node in below.get(key, ()) if node.key.kind is kind]


def _folder(node: Node, folder: str) -> dict[str, str]:
    start = f"{folder}/"
    return {
        name.removeprefix(start): value for name, value in node.settings.items() if name.startswith(start)
    }


def _login(node: Node, folder: str, suffix: str = "") -> Login | None:
    user = node.settings.get(f"{folder}/userid{suffix}", "")
    secret = node.settings.get(f"{folder}/password{suffix}", "")
    return Login(user, secret) if user or secret else None


def _text(value: Made) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Made) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _flag(value: Made) -> bool | None:
    return value if isinstance(value, bool) else None


def _backstore(node: Node, below: Mapping[Key, list[Node]]) -> Backstore:
    plugin, made = Plugin(node.key.path[0]), node.made_of
    attributes = _folder(node, "attrib")
    write_back = _flag(made.get("write_back"))
    if plugin is Plugin.BLOCK:
        write_back = attributes.get("emulate_write_cache") == "1"
    return Backstore(
        plugin=plugin,
        name=node.key.path[1],
        size_bytes=_number(made.get("size")),
        device=_text(made.get("device")),
        serial=_text(made.get("serial")),
        write_back=write_back,
        read_only=_flag(made.get("read_only")),
        aio=_flag(made.get("aio")),
        nullio=_flag(made.get("nullio")) or None,
        config=_text(made.get("config")),
        hw_max_sectors=_number(made.get("hw_max_sectors")),
        attributes=attributes,
        alua_groups=[_alua(group) for group in _inner(node.key, Kind.ALUA_GROUP, below)],
    )


def _alua(node: Node) -> AluaGroup:
    settings = {name: int(value) for name, value in node.settings.items() if value.isdigit()}
    return AluaGroup(name=node.key.path[2], tag=_number(node.made_of.get("tag")) or 0, settings=settings)


def _discovery(node: Node) -> Discovery:
    return Discovery(
        fabric=node.key.path[0],
        enforced=True,
        login=_login(node, _DISCOVERY),
        mutual_login=_login(node, _DISCOVERY, "_mutual"),
    )


def _target(node: Node, below: Mapping[Key, list[Node]]) -> KernelTarget:
    return KernelTarget(
        fabric=node.key.path[0],
        wwn=node.key.path[1],
        parameters=_folder(node, "param"),
        groups=[_group(group, below) for group in _inner(node.key, Kind.GROUP, below)],
    )


def _group(node: Node, below: Mapping[Key, list[Node]]) -> PortalGroup:
    attributes = _folder(node, "attrib")
    return PortalGroup(
        tag=int(node.key.path[2]),
        enabled=node.settings.get("enable") == "1",
        luns=[_lun(lun) for lun in _inner(node.key, Kind.LUN, below) if "broken" not in lun.made_of],
        portals=[_portal(portal) for portal in _inner(node.key, Kind.PORTAL, below)],
        acls=[
            _acl(acl, below, attributes.get("default_cmdsn_depth"))
            for acl in _inner(node.key, Kind.ACL, below)
        ],
        login=_login(node, _AUTH),
        mutual_login=_login(node, _AUTH, "_mutual"),
        attributes=attributes,
        parameters=_folder(node, "param"),
    )


def _lun(node: Node) -> Lun:
    plugin, _, name = str(node.made_of["backstore"]).partition("/")
    return Lun(
        number=int(node.key.path[3]),
        plugin=Plugin(plugin),
        backstore=name,
        alias=_text(node.made_of.get("alias")),
        alua_group=node.settings.get("alua_tg_pt_gp"),
    )


def _portal(node: Node) -> Portal:
    address, _, port = node.key.path[3].rpartition(":")
    return Portal(
        address=address.removeprefix("[").removesuffix("]"),
        port=int(port),
        iser=node.settings.get("iser") == "1",
        offload=node.settings.get("cxgbit") == "1",
    )


def _acl(node: Node, below: Mapping[Key, list[Node]], usual_depth: str | None) -> Acl:
    depth = node.settings.get("cmdsn_depth")
    return Acl(
        initiator=node.key.path[3],
        mapped_luns=[
            _mapped(lun)
            for lun in _inner(node.key, Kind.MAPPED_LUN, below)
            if lun.made_of.get("lun") is not None
        ],
        login=_login(node, _AUTH),
        mutual_login=_login(node, _AUTH, "_mutual"),
        tag=node.settings.get("tag") or None,
        queue_depth=None if depth is None or depth == usual_depth else int(depth),
        attributes=_folder(node, "attrib"),
    )


def _mapped(node: Node) -> MappedLun:
    return MappedLun(
        number=int(node.key.path[4]),
        lun=_number(node.made_of.get("lun")) or 0,
        read_only=node.settings.get("write_protect") == "1",
        alias=_text(node.made_of.get("alias")),
    )
