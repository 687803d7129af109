"""A measurement and a responder joined by a simulated channel: rate, delay, loss; all in simulated time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from mgmt.channel.dispersion import NotMeasurable
from mgmt.channel.measurement import Measured, Measurement, MeasurementConfig
from mgmt.channel.responder import MAX_MEASUREMENTS, MAX_SESSIONS, MAX_TRAIN, Responder
from mgmt.channel.stamp import (
    PLAIN_BYTES,
    ReflectorPacket,
    SenderPacket,
    decode_reflector,
    encode_reflector,
    encode_sender,
)
from mgmt.channel.wire import Kind, Packet, decode, encode

HEADER = 28
NONCE = 7
LIMIT_NS = MeasurementConfig().limit_ns


def reflected(number: int = 0, *, hold_ns: int = 0, sent_ns: int = 0, ssid: int = NONCE) -> bytes:
    """The reflection of the packet that left at `sent_ns`."""
    packet = ReflectorPacket(
        sequence=number,
        sent_utc_ns=500 + hold_ns,
        received_utc_ns=500,
        sender_sequence=number,
        sender_sent_utc_ns=sent_ns,
        sender_ttl=64,
        ssid=ssid,
    )
    return encode_reflector(packet)


def reported(bandwidth_bps: int) -> bytes:
    return encode(Packet(Kind.REPORT, NONCE, train=1, bandwidth_bps=bandwidth_bps))


class SimulatedChannel:
    """A bottleneck of ``bandwidth_bps`` one way, then a delay; ``lose`` says which datagrams vanish."""

    def __init__(
        self,
        bandwidth_bps: int,
        one_way_ns: int,
        lose: Callable[[], bool] = lambda: False,
        config: MeasurementConfig | None = None,
    ) -> None:
        self.now_ns = 1_000_000
        self.sent = 0
        self.core = Measurement(NONCE, config or MeasurementConfig(), self.now_ns)
        self._responder = Responder()
        self._bandwidth_bps = bandwidth_bps
        self._one_way_ns = one_way_ns
        self._lose = lose
        self._free_at_ns = 0
        self._answers: list[tuple[int, bytes]] = []

    def run(self) -> Measured:
        started_ns = self.now_ns
        while not self.core.over:
            for datagram in self.core.datagrams_to_send(self.now_ns):
                self._carry(datagram)
            deadline_ns = self.core.next_deadline()
            assert deadline_ns is not None
            if self._answers and self._answers[0][0] <= deadline_ns:
                self.now_ns, data = self._answers.pop(0)
                self.core.receive(data, self.now_ns)
            else:
                self.now_ns = max(self.now_ns, deadline_ns)
                self.core.handle_timer(self.now_ns)
        assert self.now_ns - started_ns <= LIMIT_NS
        return self.core.outcome()

    def _carry(self, datagram: bytes) -> None:
        self.sent += 1
        if self._lose():
            return
        wire_ns = 8 * (len(datagram) + HEADER) * 10**9 // self._bandwidth_bps
        self._free_at_ns = max(self.now_ns, self._free_at_ns) + wire_ns
        arrival_ns = self._free_at_ns + self._one_way_ns
        answer = self._responder.receive(datagram, "peer", HEADER, arrival_ns, arrival_ns + 1_000)
        if answer is not None and not self._lose():
            self._answers.append((arrival_ns + 1_000 + self._one_way_ns, answer))
            self._answers.sort()


@pytest.mark.parametrize("bandwidth_bps", [10**6, 10**7, 10**8, 10**9])
@pytest.mark.parametrize("rtt_ns", [200_000, 20_000_000, 280_000_000, 2_000_000_000])
def test_bandwidth_and_round_trip_of_a_channel_are_found_in_bounded_time(
    bandwidth_bps: int, rtt_ns: int
) -> None:
    measured = SimulatedChannel(bandwidth_bps, rtt_ns // 2).run()
    assert measured.bandwidth_bps == pytest.approx(bandwidth_bps, rel=0.01)
    serialisation_ns = 8 * (PLAIN_BYTES + HEADER) * 10**9 // bandwidth_bps
    assert measured.rtt_ns == pytest.approx(rtt_ns + serialisation_ns, rel=0.01)


def test_a_channel_that_loses_a_tenth_is_still_measured() -> None:
    rng = random.Random(3)
    measured = SimulatedChannel(10**8, 10**7, lambda: rng.random() < 0.1).run()
    assert measured.bandwidth_bps == pytest.approx(10**8, rel=0.02)


def test_a_channel_that_loses_everything_is_not_measurable_and_costs_only_the_echoes() -> None:
    channel = SimulatedChannel(10**8, 10**7, lambda: True)
    with pytest.raises(NotMeasurable, match="nothing came back: no echo of 10 in 3 s"):
        channel.run()
    assert channel.sent == MeasurementConfig().echoes


def test_a_channel_that_carries_echoes_but_no_trains_is_not_measurable() -> None:
    count = iter(range(10**6))
    echoes = MeasurementConfig().echoes
    with pytest.raises(NotMeasurable, match="no packet train"):
        SimulatedChannel(10**8, 10**7, lambda: next(count) >= 2 * echoes).run()


def test_a_short_channel_without_trains_is_given_up_soon() -> None:
    """The long waits are for long channels only."""
    count = iter(range(10**6))
    channel = SimulatedChannel(10**8, 10**7, lambda: next(count) >= 2 * MeasurementConfig().echoes)
    with pytest.raises(NotMeasurable):
        channel.run()
    assert channel.now_ns < 2_000_000_000


def test_a_lost_echo_is_waited_for_two_round_trips_and_a_while() -> None:
    last = MeasurementConfig().echoes * 2 - 2  # nine echoes and their answers come first
    count = iter(range(10**6))
    channel = SimulatedChannel(10**8, 1_000_000, lambda: next(count) == last)
    assert channel.run().rtt_ns < 2_100_000
    assert channel.now_ns < 2_000_000_000


def test_reports_of_a_long_channel_are_not_asked_for_again_before_they_can_be_here() -> None:
    channel = SimulatedChannel(10**6, 1_000_000_000)
    channel.run()
    config = MeasurementConfig()
    trains = config.trains + 1
    assert channel.sent <= config.echoes + trains * (config.scout_packets + 1)


def test_packets_of_another_measurement_are_ignored() -> None:
    core = Measurement(NONCE, MeasurementConfig(), 0)
    assert len(core.datagrams_to_send(0)) == 1
    core.receive(reflected(ssid=NONCE + 1), 1_000)
    core.receive(reflected(1), 1_000)  # never sent
    core.receive(reflected(sent_ns=5), 1_000)  # sent at another time
    core.receive(reported(5), 1_000)  # no train is under way
    with pytest.raises(NotMeasurable, match="nothing came back"):
        core.outcome()


def test_the_time_that_the_responder_held_an_echo_does_not_count() -> None:
    config = MeasurementConfig(echoes=1, trains=0)
    core = Measurement(NONCE, config, 0)
    core.datagrams_to_send(0)
    core.receive(reflected(hold_ns=400), 1_000)
    core.datagrams_to_send(2_000)
    core.receive(reported(10**8), 3_000)
    assert core.outcome().rtt_ns == 600


def test_an_echo_that_comes_twice_counts_once() -> None:
    core = Measurement(NONCE, MeasurementConfig(echoes=2), 0)
    core.datagrams_to_send(0)
    core.receive(reflected(), 1_000)
    core.receive(reflected(), 1_100)
    assert core.datagrams_to_send(MeasurementConfig().echo_spacing_ns), "the second echo is still to be sent"


@pytest.mark.parametrize(("offered_share", "limited"), [(100, False), (1, True)])
def test_a_sender_that_is_no_faster_than_the_result_is_reported(offered_share: int, limited: bool) -> None:
    config = MeasurementConfig(echoes=1, trains=0)
    core = Measurement(NONCE, config, 0)
    core.datagrams_to_send(0)
    core.receive(reflected(), 1_000)
    burst = core.datagrams_to_send(2_000)
    assert len(burst) == config.scout_packets + 1
    took_ns = 8 * config.scout_packets * config.packet_bytes * 10**9 // (10**8 * offered_share)
    core.burst_written(took_ns, blocked=False)
    core.receive(reported(10**8), 3_000)
    assert core.outcome() == Measured(10**8, 1_000, limited)


def test_a_lost_report_is_asked_for_again() -> None:
    config = MeasurementConfig(echoes=1)
    core = Measurement(NONCE, config, 0)
    core.datagrams_to_send(0)
    core.receive(reflected(), 1_000)
    core.datagrams_to_send(2_000)
    assert core.datagrams_to_send(3_000) == []
    deadline_ns = core.next_deadline()
    assert deadline_ns == 2_000 + config.repeat_ns + 2 * 1_000
    core.handle_timer(deadline_ns)
    (again,) = core.datagrams_to_send(deadline_ns)
    asked = decode(again)
    assert asked is not None
    assert (asked.kind, asked.train) == (Kind.REPORT_REQUEST, 1)


@pytest.mark.parametrize(
    "wrong", [{"packet_bytes": 20}, {"max_packets": MAX_TRAIN + 1}, {"scout_packets": 0}]
)
def test_a_measurement_beyond_its_bounds_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="packet"):
        MeasurementConfig(**wrong)


# --- the responder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [PLAIN_BYTES, PLAIN_BYTES + 1, 1472])
def test_a_reflection_is_as_long_as_what_came(length: int) -> None:
    answer = Responder().receive(encode_sender(SenderPacket(0, 5)).ljust(length, b"\0"), "peer", HEADER, 0, 0)
    assert answer is not None
    assert len(answer) == length


def test_an_answer_is_never_longer_than_the_question() -> None:
    responder = Responder()
    for kind in Kind:
        question = encode(Packet(kind, NONCE))
        answer = responder.receive(question, "peer", HEADER, 0, 0)
        assert answer is None or len(answer) <= len(question)


def test_a_reflector_says_when_a_packet_came_and_left_and_with_which_ttl() -> None:
    answer = Responder(utc_offset_ns=7).receive(
        encode_sender(SenderPacket(3, 5, 9)), "peer", HEADER, 100, 350, 250
    )
    assert answer is not None
    assert decode_reflector(answer, 0) == ReflectorPacket(
        sequence=0,
        sent_utc_ns=357,
        received_utc_ns=107,
        sender_sequence=3,
        sender_sent_utc_ns=5,
        sender_ttl=250,
        ssid=9,
    )


def test_a_reflector_counts_what_it_reflects_of_each_session_and_forgets_the_oldest() -> None:
    responder = Responder()

    def count(ssid: int, peer: str = "peer") -> int:
        answer = responder.receive(encode_sender(SenderPacket(50, 5, ssid)), peer, HEADER, 0, 0)
        packet = decode_reflector(answer or b"", 0)
        assert packet is not None
        return packet.sequence

    assert [count(1), count(1), count(2), count(1), count(1, "other")] == [0, 1, 0, 2, 0]
    for stranger in range(MAX_SESSIONS):
        count(stranger + 10)
    assert count(1) == 0


def test_with_a_key_only_those_who_have_it_are_answered_and_believed() -> None:
    key = b"k" * 32
    config = MeasurementConfig(echoes=1)
    core = Measurement(NONCE, config, 0, key=key)
    (asked,) = core.datagrams_to_send(0)
    assert Responder(key=b"x" * 32).receive(asked, "peer", HEADER, 0, 0) is None
    core.receive(reflected(), 1_000)
    answer = Responder(key=key).receive(asked, "peer", HEADER, 500, 600)
    assert answer is not None
    core.receive(answer, 1_000)
    request = core.datagrams_to_send(1_000)[-1]
    core.receive(reported(10**8), 1_500)  # without the key's code
    assert core.datagrams_to_send(2_000) == [], "the train's report is still waited for"
    assert Responder().receive(request, "peer", HEADER, 0, 0) is not None
    assert Responder(key=b"x" * 32).receive(request, "peer", HEADER, 0, 0) is None


def test_jitter_is_the_mean_difference_of_neighbours_and_loss_what_did_not_come_back() -> None:
    config = MeasurementConfig(echoes=4, trains=0)
    core = Measurement(NONCE, config, 0)
    for number in range(4):
        now_ns = number * config.echo_spacing_ns
        core.datagrams_to_send(now_ns)
        if number != 2:
            core.receive(reflected(number, sent_ns=now_ns), now_ns + 1_000 * (number + 1))
    core.handle_timer(10**12)
    core.datagrams_to_send(core.next_deadline() or 0)
    measurement = core.outcome_of_delay()
    assert (measurement.rtt_ns, measurement.jitter_ns, measurement.loss_ppm) == (1_000, 1_500, 250_000)


@pytest.mark.parametrize(
    "stray",
    [b"", b"x" * (PLAIN_BYTES - 1), encode(Packet(Kind.TRAIN, NONCE))[:-1], b"SCmd" + b"x" * 200],
)
def test_a_stray_datagram_is_ignored(stray: bytes) -> None:
    assert decode(stray) is None
    assert Responder().receive(stray, "peer", HEADER, 0, 0) is None


@pytest.mark.parametrize("offset", [4, 5])
def test_an_unknown_version_or_kind_is_ignored(offset: int) -> None:
    data = bytearray(encode(Packet(Kind.TRAIN, NONCE)))
    data[offset] = 0xEE
    assert decode(bytes(data)) is None


def report(responder: Responder, peer: str, train: int, nonce: int = NONCE) -> Packet:
    answer = responder.receive(encode(Packet(Kind.REPORT_REQUEST, nonce, train=train)), peer, HEADER, 0, 0)
    assert answer is not None
    packet = decode(answer)
    assert packet is not None
    return packet


def send_train(responder: Responder, peer: str, train: int, packets: int = 10, nonce: int = NONCE) -> None:
    for number in range(packets):
        data = encode(Packet(Kind.TRAIN, nonce, train=train, sequence=number), 1472)
        assert responder.receive(data, peer, HEADER, number * 120_000, 0) is None


def test_trains_of_different_peers_and_nonces_do_not_mix() -> None:
    responder = Responder()
    send_train(responder, "a", 1)
    assert report(responder, "a", 1).arrived == 10
    assert report(responder, "a", 1).bandwidth_bps == pytest.approx(10**8, rel=1e-4)
    assert report(responder, "b", 1).arrived == 0
    assert report(responder, "a", 1, NONCE + 1).arrived == 0


def test_a_late_packet_of_an_earlier_train_does_not_count() -> None:
    responder = Responder()
    send_train(responder, "a", 2)
    send_train(responder, "a", 1)
    assert report(responder, "a", 2).arrived == 10
    assert report(responder, "a", 1).arrived == 0


def test_what_strangers_can_make_a_responder_hold_is_bounded() -> None:
    responder = Responder()
    send_train(responder, "a", 1, MAX_TRAIN + 50)
    assert report(responder, "a", 1).arrived == MAX_TRAIN
    for number in range(MAX_MEASUREMENTS):
        send_train(responder, f"stranger {number}", 1, 1)
    assert report(responder, "a", 1).arrived == 0
