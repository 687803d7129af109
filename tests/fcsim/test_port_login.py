"""What a login grants: each side sends with what the other offered."""

from __future__ import annotations

import pytest

from fcsim.errors import PeerViolation
from fcsim.port.login import Exchange, Offer, counts_for_the_link, grant


def test_each_direction_has_the_credit_that_its_receiver_offered() -> None:
    """fcoe-t11.pcap offers 16 both ways, libfc offers 10 to a fabric that offers 16: the two differ."""
    host, fabric = Offer(10, 1452), Offer(16, 2060)
    at_host, at_fabric = grant(host, fabric), grant(fabric, host)
    assert (at_host.transmit, at_host.receive) == ({None: 16}, {None: 10})
    assert (at_fabric.transmit, at_fabric.receive) == ({None: 10}, {None: 16})
    assert at_host.max_data_field_bytes == at_fabric.max_data_field_bytes == 1452


def test_virtual_channels_count_where_both_sides_have_them() -> None:
    ours = Offer(26, virtual_channels={0: 4, 2: 5, 3: 5, 9: 1}, bb_sc_n=8)
    theirs = Offer(26, virtual_channels={0: 4, 2: 7, 3: 5}, bb_sc_n=8)
    granted = grant(ours, theirs)
    assert granted.transmit == {0: 4, 2: 7, 3: 5}
    assert granted.receive == {0: 4, 2: 5, 3: 5}
    assert granted.bb_sc_n == 0
    assert grant(ours, Offer(16, bb_sc_n=4)).transmit == {None: 16}


def test_alternate_management_takes_both_sides() -> None:
    assert grant(Offer(0, alternate=True), Offer(0, alternate=True)).alternate
    assert not grant(Offer(4, alternate=True), Offer(4)).alternate


def test_a_plogis_credit_is_the_links_only_without_a_fabric() -> None:
    assert counts_for_the_link(Exchange.FLOGI, directly_connected=False)
    assert counts_for_the_link(Exchange.PLOGI, directly_connected=True)
    assert not counts_for_the_link(Exchange.PLOGI, directly_connected=False)


@pytest.mark.parametrize(
    ("offer", "text"),
    [
        (Offer(0), "nothing could ever be sent"),
        (Offer(1, 2111), "multiple of 4"),
        (Offer(1, 252), "from 256"),
        (Offer(1, 2116), "to 2112"),
        (Offer(70_000), "BB_Credit 70000"),
        (Offer(1, bb_sc_n=16), "BB_SC_N 16"),
        (Offer(1, ee_credit=-1), "EE_Credit -1"),
        (Offer(1, virtual_channels={300: 1}), "virtual channel 300"),
    ],
)
def test_an_impossible_offer_is_refused_in_one_line(offer: Offer, text: str) -> None:
    with pytest.raises(PeerViolation, match=text):
        grant(Offer(8, virtual_channels={300: 1}), offer)
