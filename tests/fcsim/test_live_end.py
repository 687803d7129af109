"""One live link in memory: exact link time, credits R_RDY by R_RDY, logins, faults."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fcsim.errors import CreditMisuse, MalformedFrame, PeerViolation
from fcsim.live.framing import HELLO_BYTES, Hello, RecordReader, encode_record
from fcsim.live.link_clock import LinkClock, choose_time_scale
from fcsim.live.live_end import EndConfig, LiveEnd
from fcsim.live.measure import carry, plain_frame
from fcsim.live.n_port import LoginFailed, NPortConfig, PortLoggedIn
from fcsim.port.events import CreditRecovered, Discard, FrameArrived, FrameDiscarded, LinkChanged
from fcsim.port.link_state import LinkState
from fcsim.port.login import Offer
from fcsim.speeds import SPEEDS, throughput_bytes_per_second
from fcsim.wire.ordered_sets import R_RDY

UP_PS = 20 * 10**9
LONG_PS = 10**12
LOW, HIGH = 0x1000_0000_0000_0001, 0x1000_0000_0000_0002


def ends(
    credit: int = 16,
    distance_m: int = 10_000,
    speed: str = "32G",
    bb_sc_n: int = 0,
    credit_loss_ps: int | None = 10**12,
    **sender: object,
) -> tuple[LiveEnd, LiveEnd]:
    """A link that is up and logged in."""
    made = []
    for name, own, peer in (("low", LOW, HIGH), ("high", HIGH, LOW)):
        n_port = NPortConfig(own, own, Offer(credit, bb_sc_n=bb_sc_n))
        config = EndConfig(
            name, n_port, SPEEDS[speed], distance_m, hold_ps=None, credit_loss_ps=credit_loss_ps
        )
        made.append(LiveEnd(config, peer, **(sender if own == LOW else {})))  # type: ignore[arg-type]
    carry(made, UP_PS, step_ps=1_000_000)
    return made[0], made[1]


def listen(end: LiveEnd) -> list[tuple[int, FrameArrived[bytes]]]:
    """What is delivered at an end from now on; nothing is released."""
    held: list[tuple[int, FrameArrived[bytes]]] = []
    end._deliver = lambda arrived, moment: held.append((moment, arrived))
    return held


def test_the_link_comes_up_and_the_higher_name_originates_the_login() -> None:
    low, high = ends(credit=12, bb_sc_n=8)
    for end, originated, address in ((low, False, 2), (high, True, 1)):
        events = list(end.events())
        assert [event.after for event in events if isinstance(event, LinkChanged)] == [
            LinkState.LF1,
            LinkState.OL2,
            LinkState.LR2,
            LinkState.LR3,
            LinkState.AC,
        ]
        (login,) = [event for event in events if isinstance(event, PortLoggedIn)]
        assert (login.originated, end.n_port.n_port_id) == (originated, address)
        assert (end.granted.transmit, end.granted.receive, end.granted.bb_sc_n) == ({None: 12}, {None: 12}, 8)
        (channel,) = end.statistics().channels
        assert (channel.transmit_remaining, channel.excess_r_rdy) == (12, 0)


@pytest.mark.parametrize("speed", ["1G", "32G", "128G"])
@pytest.mark.parametrize("distance_m", [100, 10_000, 100_000])
@pytest.mark.parametrize("credit", [1, 3, 8, 40])
def test_throughput_in_link_time_follows_the_formula(speed: str, distance_m: int, credit: int) -> None:
    payload = 2048
    sender, receiver = ends(credit, distance_m, speed)
    moments: list[int] = []

    def take(arrived: FrameArrived[bytes], moment: int) -> None:
        moments.append(moment)
        receiver.release(arrived, moment)

    receiver._deliver = take
    record = plain_frame(bytes(payload))
    for _ in range(credit * 40 + 1):
        sender.submit(record, UP_PS)
    carry((sender, receiver), LONG_PS * 100, step_ps=max(distance_m * 5000, 1))
    assert len(moments) == credit * 40 + 1
    rate = credit * 40 * payload * 10**12 / (moments[-1] - moments[0])
    expected = throughput_bytes_per_second(SPEEDS[speed], credit, distance_m, payload)
    assert rate == pytest.approx(expected, rel=1e-3)
    assert sender.lateness.exact and receiver.lateness.exact


def test_eight_reserved_credits_are_eight_frames_and_then_as_many_as_r_rdys_come() -> None:
    """Claim 11."""
    sender, receiver = ends(credit=20)
    sender.reserve({"copy": 8}, UP_PS)
    held = listen(receiver)
    record = plain_frame(b"copy")
    for _ in range(40):
        sender.submit(record, UP_PS, share="copy")
    carry((sender, receiver), 2 * UP_PS, step_ps=50_000_000)
    assert len(held) == 8
    for released in (1, 3, 5):
        before = len(held)
        for _, arrived in held[:released]:
            receiver.release(arrived, receiver.now_ps)
        del held[:released]
        carry((sender, receiver), sender.now_ps + UP_PS, step_ps=50_000_000)
        assert len(held) == before


def test_a_reservation_beyond_the_grant_is_refused_and_changes_nothing() -> None:
    sender, receiver = ends(credit=8)
    with pytest.raises(CreditMisuse, match="new login"):
        sender.reserve({"copy": 9}, UP_PS)
    held = listen(receiver)
    for _ in range(10):
        sender.submit(plain_frame(b"x"), UP_PS)
    carry((sender, receiver), 2 * UP_PS, step_ps=50_000_000)
    assert len(held) == 8


def copied_beside_a_storm(reserved: bool) -> int:
    """Frames of a copy that arrive within 100 round trips, behind and beside 3,000 frames of a storm."""
    sender, receiver = ends(credit=16)
    if reserved:
        sender.reserve({"copy": 8}, UP_PS)
    copy, storm = plain_frame(b"copy"), plain_frame(b"storm")
    for _ in range(3000):
        sender.submit(storm, UP_PS, share="storm")
    for _ in range(800):
        sender.submit(copy, UP_PS, share="copy")
    arrived = []

    def take(frame: FrameArrived[bytes], moment: int) -> None:
        if frame.frame == copy:
            arrived.append(moment)
        receiver.release(frame, moment)

    receiver._deliver = take
    carry((sender, receiver), UP_PS + 100 * 2 * 10_000 * 5000, step_ps=50_000_000)
    return len(arrived)


def test_a_storm_starves_the_copy_unless_credits_are_reserved_for_it() -> None:
    assert copied_beside_a_storm(reserved=False) == 0
    assert copied_beside_a_storm(reserved=True) in range(780, 801)


def test_the_ceiling_holds_from_the_next_frame_on() -> None:
    sender, receiver = ends(credit=16)
    sender.set_ceiling(5, UP_PS)
    held = listen(receiver)
    for _ in range(16):
        sender.submit(plain_frame(b"x"), UP_PS)
    carry((sender, receiver), 2 * UP_PS, step_ps=50_000_000)
    assert len(held) == 5
    sender.set_ceiling(16, sender.now_ps)
    carry((sender, receiver), 3 * UP_PS, step_ps=50_000_000)
    assert len(held) == 16


def losing(chosen: Callable[[bytes], bool], seed: int, share: float) -> Callable[[bytes, int], bool]:
    chance = random.Random(seed)
    return lambda record, moment: moment > UP_PS and chosen(record) and chance.random() < share


def test_lost_frames_give_their_credits_back_at_the_next_boundary() -> None:
    lose = losing(lambda record: len(record) > 4, 1, 0.1)
    sender, receiver = ends(credit=64, bb_sc_n=5, credit_loss_ps=None, lose=lose)
    for _ in range(1024):
        sender.submit(plain_frame(b"x"), UP_PS + 1)
    carry((sender, receiver), LONG_PS, step_ps=50_000_000)
    lost = sender.traffic.records_lost
    found = sum(event.frames for event in receiver.events() if isinstance(event, CreditRecovered))
    assert lost > 50
    assert found == lost
    (channel,) = sender.statistics().channels
    # The R_RDYs of recovery may leave a boundary open, never a credit.
    assert channel.transmit_remaining == 64


def test_a_frame_whose_crc_is_wrong_is_dropped_and_its_credit_comes_back() -> None:
    sender, receiver = ends(credit=4, bb_sc_n=3)
    hit = random.Random(3)
    sender._corrupt = lambda record, moment: moment > UP_PS and hit.random() < 0.3
    arrived = []

    def take(frame: FrameArrived[bytes], moment: int) -> None:
        arrived.append(moment)
        receiver.release(frame, moment)

    receiver._deliver = take
    for _ in range(200):
        sender.submit(plain_frame(b"x"), UP_PS + 1)
    carry((sender, receiver), 2 * UP_PS, step_ps=50_000_000)
    bad = receiver.traffic.bad_crcs
    assert 30 < bad < 100
    assert len(arrived) == 200 - bad
    dropped = [event for event in receiver.events() if isinstance(event, FrameDiscarded)]
    assert [event.reason for event in dropped] == [Discard.BAD_CRC] * bad
    statistics = sender.statistics()
    assert statistics.channels[0].transmit_remaining == 4
    assert statistics.link_resets == receiver.statistics().frames_recovered == 0


def test_credits_that_never_come_back_end_in_a_link_reset_that_restores_them() -> None:
    sender, receiver = ends(credit=4, lose=None, credit_loss_ps=10**9)
    receiver._lose = lambda record, _: record == R_RDY.encode() and receiver.now_ps < UP_PS + 10**9
    for _ in range(4):
        sender.submit(plain_frame(b"x"), UP_PS)
    carry((sender, receiver), UP_PS + 10**10, step_ps=50_000_000)
    assert receiver.traffic.records_lost == 4
    statistics = sender.statistics()
    assert (statistics.link_resets, statistics.credit_losses, statistics.state) == (1, 1, LinkState.AC)
    assert statistics.channels[0].transmit_remaining == 4
    assert sender.n_port.logged_in, "a link reset leaves the login alone"
    for _ in range(3):
        sender.submit(plain_frame(b"y"), sender.now_ps)
    before = receiver.traffic.frames_received
    carry((sender, receiver), sender.now_ps + 10**10, step_ps=50_000_000)
    assert receiver.traffic.frames_received == before + 3


def test_a_link_that_failed_comes_back_with_a_new_login() -> None:
    sender, receiver = ends()
    list(sender.events())
    sender.lose_signal(UP_PS)
    carry((sender, receiver), 2 * UP_PS, step_ps=1_000_000)
    (login,) = [event for event in sender.events() if isinstance(event, PortLoggedIn)]
    assert login.port_name == HIGH
    assert sender.statistics().channels[0].transmit_remaining == 16


def test_a_lost_login_is_asked_again() -> None:
    made = []
    for name, own, peer in (("low", LOW, HIGH), ("high", HIGH, LOW)):
        n_port = NPortConfig(own, own, Offer(4), e_d_tov_ps=10**9)
        made.append(LiveEnd(EndConfig(name, n_port, SPEEDS["8G"], credit_loss_ps=5 * 10**8), peer))
    lost: list[bytes] = []

    def lose(record: bytes, _: int) -> bool:
        if len(record) > 4 and not lost:
            lost.append(record)
            return True
        return False

    made[1]._lose = lose
    carry(made, UP_PS)
    assert len(lost) == 1
    assert made[0].n_port.logged_in == {1: HIGH}


def test_a_login_that_offers_no_credit_is_refused() -> None:
    made = []
    for name, own, peer, credit in (("low", LOW, HIGH, 4), ("high", HIGH, LOW, 0)):
        n_port = NPortConfig(own, own, Offer(credit))
        made.append(LiveEnd(EndConfig(name, n_port, SPEEDS["8G"]), peer))
    carry(made, UP_PS)
    (failed,) = [event for event in made[1].events() if isinstance(event, LoginFailed)]
    assert "refused" in failed.reason
    assert not made[0].n_port.logged_in


def test_equal_names_make_no_link() -> None:
    config = EndConfig("twin", NPortConfig(LOW, LOW, Offer(1)), SPEEDS["8G"])
    with pytest.raises(PeerViolation, match="both ends"):
        LiveEnd(config, LOW)


def test_a_record_that_comes_after_its_time_is_counted_and_said() -> None:
    sender, receiver = ends()
    receiver.reset_link(UP_PS + 10**9)
    sender.submit(plain_frame(b"x"), UP_PS)
    sender.run_until(UP_PS + 10**8)
    receiver.receive_data(sender.data_to_send())
    receiver.run_until(UP_PS + 2 * 10**9)
    assert not receiver.lateness.exact
    assert "choose a larger time scale" in str(receiver.lateness)


def uneven(promises: bool, seed: int) -> tuple[LiveEnd, LiveEnd]:
    """Two ends whose machines run and stall as they like, each with frames of its own to send all the time."""
    chance = random.Random(seed)
    made = ends(credit=8, distance_m=10_000)
    clocks = [UP_PS, UP_PS]
    record = plain_frame(bytes(500))
    for _ in range(3000):
        number = chance.randrange(2)
        here, there = made[number], made[1 - number]
        # A machine that was away for longer than a frame flies finds its clock far ahead.
        clocks[number] += chance.choice((10_000, 1_000_000, 200_000_000))
        clocks[number] = max(clocks[number], clocks[1 - number] - 10**9)
        horizon = here.horizon(clocks[number]) if promises else clocks[number]
        here.run_until(horizon, clocks[number])
        if promises:
            here.promise(horizon)
        if chance.random() < 0.5:
            here.submit(record, horizon)
        there.receive_data(here.data_to_send())
    return made


@pytest.mark.parametrize("seed", range(5))
def test_ends_that_wait_for_each_others_promises_displace_nothing(seed: int) -> None:
    low, high = uneven(True, seed)
    assert low.lateness.exact and high.lateness.exact
    assert min(low.now_ps, high.now_ps) > UP_PS + 10**10, "they wait for each other, but not for ever"
    assert low.traffic.frames_received > 500 and high.traffic.frames_received > 500
    assert not all(end.lateness.exact for end in uneven(False, seed)), (
        "without promises records come too late"
    )


def test_a_promise_is_said_when_it_is_news_and_kept() -> None:
    low, high = ends(distance_m=1000)
    high.receive_data(low.data_to_send())
    low.run_until(UP_PS)
    low.promise(UP_PS)
    data = low.data_to_send()
    assert len(data) == 10 and data.endswith(bytes(2))
    high.receive_data(data)
    assert high.horizon(10**18) == UP_PS + low.flight_ps - 1
    low.promise(UP_PS + low.flight_ps // 8)
    assert low.data_to_send() == b""
    low.submit(plain_frame(b"x"), UP_PS)
    low.run_until(2 * UP_PS)
    high.receive_data(low.data_to_send())
    high.run_until(2 * UP_PS)
    assert high.traffic.last_arrival_ps > UP_PS + low.flight_ps


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (encode_record(5, b"1234") + encode_record(4, b"1234"), "4 ps after one of 5 ps"),
        (encode_record(5, bytes(9)), "a record of 9 bytes"),
        (bytes(8) + b"\xff\xff", "a record of 65535 bytes"),
    ],
)
def test_a_stream_that_breaks_the_rules_ends_in_one_clear_line(data: bytes, text: str) -> None:
    with pytest.raises((MalformedFrame, PeerViolation), match=text):
        RecordReader().receive(data)


def test_records_are_cut_from_a_stream_wherever_it_is_torn() -> None:
    records = [(7, b"1234"), (7, plain_frame(b"abc")), (9, b"5678")]
    reader, found = RecordReader(), []
    for byte in b"".join(encode_record(*record) for record in records):
        found += reader.receive(bytes((byte,)))
    assert found == records


def test_a_greeting_says_what_it_is_and_every_other_is_refused() -> None:
    hello = Hello(
        speed_name=b"32G\0\0\0\0\0", distance_m=5, time_scale=9, epoch_ns=1, port_name=LOW, node_name=HIGH
    )
    data = hello.encode()
    assert len(data) == HELLO_BYTES
    assert Hello.decode(data) == hello
    for start, bad, text in (
        (0, b"GET / HT", "FC-LIVE"),
        (9, b"\7", "version 7"),
        (10, b"33G", "33G"),
        (18, b"\xff", "a distance"),
        (22, bytes(4), "a time scale"),
    ):
        with pytest.raises(MalformedFrame, match=text):
            Hello.decode(data[:start] + bad + data[start + len(bad) :])


def test_link_time_and_wall_time_convert_without_drift() -> None:
    clock = LinkClock(1_000, 7)
    for moment in (0, 1, 999, 10**18 + 1):
        wall = clock.wall_ns(moment)
        assert clock.link_ps(wall) >= moment > clock.link_ps(wall - 1)


def test_the_time_scale_leaves_room_for_the_work_and_for_the_loop() -> None:
    by_work = choose_time_scale(SPEEDS["32G"], 100_000, 50_000)
    assert by_work >= 4 * 50_000_000 // SPEEDS["32G"].frame_ps(2112)
    assert choose_time_scale(SPEEDS["1G"], 0, 1) > choose_time_scale(SPEEDS["1G"], 100_000, 1)
