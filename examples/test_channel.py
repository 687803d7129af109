# A channel whose rate and delay change while the test runs.
import pytest


@pytest.mark.shape(rate="100Mbit", delay="1ms")
def test_the_channel_becomes_longer(channel):
    if channel.kind == "loopback":
        pytest.skip(channel.channel.note)
    assert channel.set(delay="40ms", rate="10Mbit")["kind"] == channel.kind
    assert channel.channel.settings.rtt_ns == 80_000_000
    assert "10.99.0.1" in channel.run("master", "ip", "-4", "addr")
