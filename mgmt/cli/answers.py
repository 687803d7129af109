"""Reading the station's answers: what a command goes on with is there and of its kind, or nobody of ours answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgmt.http.client import Peer

_KINDS = {str: "text", int: "whole number", float: "number", bool: "yes or no", list: "list", dict: "object"}


def checked(peer: Peer, answer: Any, **fields: type) -> dict[str, Any]:
    """``answer`` as an object that has all ``fields``, each of its type; a ``float`` may be whole.

    Raises :class:`mgmt.http.PeerUnreachable` (exit code 3): what answers there is no station of this version.
    """
    from mgmt.http.problems import PeerUnreachable

    if not isinstance(answer, dict):
        raise PeerUnreachable(peer.who, f"its answer is not an object{_ADVICE}")
    for name, kind in fields.items():
        value = answer.get(name)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise PeerUnreachable(peer.who, f"its answer has no {_KINDS[kind]} {name!r}{_ADVICE}")
    return answer


_ADVICE = ": is it a sancredit station of this version?"
