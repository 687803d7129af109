"""Credits are units of the shared core: reserved where frames are received, granted at login, divided by the sender."""

from __future__ import annotations

import pytest

from credits import (
    Code,
    InvalidRequest,
    Pool,
    PoolConfig,
    Refused,
    UnitKind,
    connection,
    new_connection,
    port_pair,
    port_pair_number,
)
from fcsim.errors import CreditMisuse
from fcsim.port.credit import TransmitCredit
from fcsim.port.group import PortGroup
from fcsim.port.login import Grant, Offer, grant
from fcsim.port.port import Port, PortConfig
from fcsim.port.shares import CreditShares
from fcsim.port.signals import Ready

HERE, THERE = "5006016047e4b6c9", "10000000c9a1b2c3"
FCP, NVME = 0x08, 0x28


def group(total: int = 100, blocks: int = 0) -> PortGroup:
    return PortGroup(
        Pool(
            PoolConfig(
                name="asic 0",
                kind=UnitKind.FC,
                unit_bytes=2148,
                total_units=total,
                unsplit_pages=blocks,
                block_units=10,
            )
        )
    )


def test_a_login_grants_the_default_and_every_reservation_of_the_pair() -> None:
    ports = group()
    ports.reserve(port_pair(HERE, THERE), 20, request_id="a", now_ns=0)
    ports.reserve(port_pair_number(HERE, THERE, FCP), 5, request_id="b", now_ns=0)
    ports.reserve(port_pair(HERE, "elsewhere"), 7, request_id="c", now_ns=0)
    link = ports.log_in(HERE, THERE)
    assert (link.bb_credit, link.unreserved, link.relogin_required) == (33, 8, False)
    assert ports.pool.statistics().free_units == 100 - 33 - 7
    assert Offer(link.bb_credit).bb_credit == 33


def test_a_login_may_be_for_reservations_alone_and_gets_unreserved_credits_with_the_next() -> None:
    ports = group()
    with pytest.raises(Refused) as refused:
        ports.log_in(HERE, THERE, 0)
    assert refused.value.code is Code.NO_MEMORY
    ports.reserve(port_pair(HERE, THERE), 20, request_id="a", now_ns=0)
    assert ports.log_in(HERE, THERE, 0).bb_credit == 20
    assert ports.log_in(HERE, THERE, 5).bb_credit == 25
    assert ports.log_in(HERE, THERE, 0).bb_credit == 20
    assert ports.pool.statistics().free_units == 80
    ports.log_out(HERE, THERE)
    assert ports.pool.statistics().free_units == 80


def test_growth_beyond_the_login_says_relogin_required_and_changes_nothing() -> None:
    ports = group()
    pair = port_pair(HERE, THERE)
    ports.reserve(pair, 20, request_id="a", now_ns=0)
    ports.log_in(HERE, THERE)
    with pytest.raises(Refused, match="ask again with a new login") as refused:
        ports.update(pair, 21, request_id="b", now_ns=0)
    assert refused.value.code is Code.RELOGIN_REQUIRED
    assert ports.link(HERE, THERE).shares == {pair: 20}
    ports.update(pair, 12, request_id="c", now_ns=0)
    ports.update(pair, 20, request_id="d", now_ns=0)
    assert ports.link(HERE, THERE).shares == {pair: 20}


def test_a_promised_relogin_lets_it_grow_and_the_share_follows_the_login() -> None:
    ports = group()
    pair = port_pair(HERE, THERE)
    ports.reserve(pair, 20, request_id="a", now_ns=0)
    ports.log_in(HERE, THERE)
    ports.update(pair, 30, request_id="b", now_ns=0, relogin=True)
    before = ports.link(HERE, THERE)
    assert (before.shares, before.bb_credit, before.relogin_required) == ({pair: 20}, 28, True)
    after = ports.log_in(HERE, THERE)
    assert (after.shares, after.bb_credit, after.relogin_required) == ({pair: 30}, 38, False)


def test_a_login_nexus_has_a_buffer_id_of_its_own() -> None:
    ports = group()
    ports.log_in(HERE, THERE)
    issued = ports.reserve(new_connection(HERE, THERE), 4, request_id="a", now_ns=0, relogin=True)
    assert issued.buffer_id is not None
    target = connection(issued.buffer_id)
    assert ports.log_in(HERE, THERE).shares == {target: 4}
    with pytest.raises(Refused, match="at its login"):
        ports.update(target, 5, request_id="b", now_ns=0)


def test_a_short_group_lends_blocks_and_then_refuses() -> None:
    """Claim 12 for FC: free 100, reserve 110: 1 block of 10 is lent; 121 of 100 + 2 blocks is an error."""
    ports = group(100, blocks=2)
    result = ports.reserve(port_pair(HERE, THERE), 110, request_id="a", now_ns=0)
    assert (result.expanded_units, result.relogin_required) == (10, True)
    fresh = group(100, blocks=2)
    with pytest.raises(Refused) as refused:
        fresh.reserve(port_pair(HERE, THERE), 121, request_id="a", now_ns=0)
    assert refused.value.code is Code.NO_MEMORY
    assert fresh.pool.statistics().free_units == 100


def test_a_login_that_cannot_be_granted_leaves_the_one_before() -> None:
    ports = group(20)
    ports.log_in(HERE, THERE, 8)
    with pytest.raises(Refused):
        ports.log_in(HERE, THERE, 30)
    assert ports.link(HERE, THERE).bb_credit == 8
    ports.log_out(HERE, THERE)
    assert ports.pool.statistics().free_units == 20
    with pytest.raises(Refused, match="not logged in"):
        ports.link(HERE, THERE)


def test_a_pool_of_memory_buffers_is_no_port_group() -> None:
    config = PoolConfig(name="tcp", kind=UnitKind.TCP, unit_bytes=2048, total_units=10)
    with pytest.raises(InvalidRequest, match="no pool of credits"):
        PortGroup(Pool(config))


def sender(bb_credit: int) -> Port[str]:
    port: Port[str] = Port(PortConfig("sender"))
    port.log_in(grant(Offer(8), Offer(bb_credit)), 0)
    return port


def test_reserved_frames_go_on_while_everybody_else_has_used_up_the_rest() -> None:
    """Claim 6 for FC: FCP has 3 reserved credits, NVMe takes from the other 5."""
    port = sender(8)
    port.reserve({FCP: 3}, 0)
    for number in range(10):
        port.submit(f"nvme {number}", 0, share=NVME)
    sent = [port.take_frame(0) for _ in range(6)]
    assert sent == [*(f"nvme {number}" for number in range(5)), None]
    for number in range(4):
        port.submit(f"fcp {number}", 0, share=FCP)
    assert [port.take_frame(0) for _ in range(4)] == ["fcp 0", "fcp 1", "fcp 2", None]
    port.receive_signal(Ready(5), 0)  # the five oldest were NVMe's
    assert sorted(filter(None, (port.take_frame(0) for _ in range(6)))) == [f"nvme {n}" for n in range(5, 10)]


def test_a_smaller_share_holds_from_the_next_frame_on() -> None:
    port = sender(8)
    port.reserve({FCP: 6}, 0)
    for number in range(12):
        port.submit(f"{number}", 0, share=FCP)
    assert sum(port.take_frame(0) is not None for _ in range(12)) == 6
    port.reserve({FCP: 2}, 0)
    port.receive_signal(Ready(4), 0)
    assert port.take_frame(0) is None
    port.receive_signal(Ready(1), 0)
    assert port.take_frame(0) == "6"


def test_shares_beyond_the_grant_are_refused_and_change_nothing() -> None:
    port = sender(4)
    port.reserve({FCP: 2}, 0)
    with pytest.raises(CreditMisuse, match="4 are granted"):
        port.reserve({FCP: 3, NVME: 2}, 0)
    shares = CreditShares(TransmitCredit(4))
    shares.reserve({"a": 2})
    with pytest.raises(CreditMisuse):
        shares.reserve({"a": 5})
    assert shares.reserved == {"a": 2}


def test_frames_of_a_share_that_ends_wait_among_everybodys() -> None:
    port = sender(2)
    port.reserve({FCP: 2}, 0)
    port.submit("other", 0, share=NVME)
    port.submit("copy", 1, share=FCP)
    port.reserve({}, 2)
    assert [port.take_frame(2), port.take_frame(2)] == ["other", "copy"]


def test_a_grant_of_a_link_without_virtual_channels_has_one_channel() -> None:
    assert grant(Offer(3), Offer(5)) == Grant({None: 5}, {None: 3}, max_data_field_bytes=2112)
