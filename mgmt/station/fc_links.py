"""Channel information of Fibre Channel pairs: the ports measure their own link, so the arrays are asked (step 802)."""

from __future__ import annotations

from credits.errors import CreditError
from mgmt.http import PeerRefused, PeerUnreachable
from mgmt.messages import ChannelInfoGetRequest, ChannelInfoGetResponse
from mgmt.station.arrays import Site
from mgmt.station.context import Station

#: A login and some round trips, on a link that is slower than the world by its time scale.
_PATIENCE_S = 30.0


def ask_ports(
    station: Station, local_port: str, remote_port: str
) -> ChannelInfoGetResponse | PeerRefused | PeerUnreachable | None:
    """M2 of the array that has ``local_port``, or of the other one; why neither could, or ``None``: no array has them.

    The local array plugs into the remote one's link where none is up; while a copy to elsewhere has it, the remote
    array is the one that can see the pair.
    """
    local, remote = _site(station, local_port), _site(station, remote_port)
    listens = None if remote is None else remote.port.get("link")
    failure: PeerRefused | PeerUnreachable | None = None
    for site, link in ((local, listens), (remote, None)):
        if site is None:
            continue
        request = ChannelInfoGetRequest(
            local_port=local_port,
            remote_port=remote_port,
            remote_link=link if isinstance(link, str) and link else None,
        )
        try:
            answer = site.peer.send(request, timeout_s=_PATIENCE_S)
        except (PeerRefused, PeerUnreachable) as error:
            failure = failure or error
            continue
        if isinstance(answer, ChannelInfoGetResponse):
            return answer
        failure = failure or PeerUnreachable(site.peer.who, "its answer is no channel information")
    return failure


def _site(station: Station, port: str) -> Site | None:
    try:
        return station.arrays.with_port(port, again=True)
    except (CreditError, PeerUnreachable):
        return None
