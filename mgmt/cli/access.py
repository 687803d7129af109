"""``--allow``: who may log in to a target and what it sees, from the words of the command line."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import click

from mgmt.cli.failures import BadValue

if TYPE_CHECKING:
    from iscsi_target.session.access import AccessList, AccessRule

FORM = "[initiator=IQN][,address=CIDR][,chap=USER][,lun=N[:OWN]]…[,read-only]"
_WHO = ("initiator", "address", "chap")


def access_list(
    rules: Sequence[str], *, hidden: bool, luns: Collection[int], users: Collection[str]
) -> AccessList | None:
    """The access list of ``--allow`` options; None without any. `luns` and `users` are those the target has.

    Raises UsageError for what is not of the form, BadValue for what the target has not.
    """
    from iscsi_target.session.access import AccessList

    if not rules:
        if hidden:
            raise click.UsageError("--hide hides the target from whom no --allow admits: give at least one")
        return None
    return AccessList(tuple(_rule(text, luns, users) for text in rules), hidden)


def _rule(text: str, luns: Collection[int], users: Collection[str]) -> AccessRule:
    from iscsi_target.session.access import AccessRule

    said: dict[str, list[str]] = {"initiator": [], "address": [], "chap": [], "lun": [], "read-only": []}
    for part in text.split(","):
        key, sign, value = part.partition("=")
        if key not in said or bool(sign and value) == (key == "read-only"):
            raise click.UsageError(f"--allow is {FORM}, not {text!r:.160}")
        said[key].append(value)
    if not any(said[key] for key in _WHO):
        raise click.UsageError(
            f"--allow {text!r:.160} says nobody: give an initiator, an address or a CHAP user"
        )
    for user in said["chap"]:
        if user not in users:
            raise BadValue(
                f"--allow names the CHAP user {user!r:.80}, who has no secret: add --chap {user}:@FILE"
            )
    try:
        return AccessRule(
            initiators=frozenset(said["initiator"]),
            networks=tuple(ipaddress.ip_network(network, strict=False) for network in said["address"]),
            chap_names=frozenset(said["chap"]),
            luns=_luns(said["lun"], luns) if said["lun"] else None,
            read_only=bool(said["read-only"]),
        )
    except ValueError as error:
        raise BadValue(f"--allow {text!r:.160}: {error}") from error


def _luns(texts: Sequence[str], luns: Collection[int]) -> dict[int, int]:
    """``N`` or ``N:OWN``: the LUN as the initiator counts, and the target's own. Raises ValueError."""
    seen: dict[int, int] = {}
    for text in texts:
        theirs, sign, own = text.partition(":")
        if not all(
            number.isascii() and number.isdigit() for number in ((theirs, own) if sign else (theirs,))
        ):
            raise ValueError(f"lun={text} is not lun=N or lun=N:OWN")
        mapped = int(own if sign else theirs)
        if mapped not in luns:
            raise ValueError(f"there is no LUN {mapped}: the target has {', '.join(map(str, luns))}")
        if seen.setdefault(int(theirs), mapped) != mapped:
            raise ValueError(f"LUN {int(theirs)} is given twice")
    return seen
