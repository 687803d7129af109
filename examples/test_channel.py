# A channel whose rate, delay and loss change while the test runs.
import sys

import pytest

SERVE = """
import socket
with socket.create_server(("0.0.0.0", 3000)) as server:
    print("listening", flush=True)
    peer, _ = server.accept()
    print(sum(iter(lambda: len(peer.recv(65536)), 0)))
"""
SEND = """
import socket
with socket.create_connection(("10.99.0.2", 3000)) as peer:
    peer.sendall(bytes(200_000))
"""


@pytest.mark.shape(rate="100Mbit", delay="1ms")
def test_what_is_sent_arrives_over_a_longer_channel_that_loses_packets(channel):
    if channel.kind == "loopback":
        pytest.skip(channel.channel.note)
    status = channel.set(delay="5ms", rate="50Mbit", loss="2%")
    assert (status["rtt_ns"], status["loss_ppm"]) == (10_000_000, 20_000)
    with channel.start("remote", sys.executable, "-c", SERVE) as server:
        assert server.stdout.readline() == "listening\n"
        channel.run("master", sys.executable, "-c", SEND)
        assert server.stdout.readline() == "200000\n"
