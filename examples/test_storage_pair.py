# Two arrays, a station and a channel between the sites, as processes.
import pytest


@pytest.mark.pair(bandwidth="200Mbit", rtt="10ms", size="2MiB")
def test_a_copy_over_the_channel(storage_pair):
    pair = ("--port-pair", storage_pair.port_pair)
    storage_pair.run("register", *pair, "--sessions", "2", "--connections", "3")
    storage_pair.run("reserve", *pair, "--size", "1MiB")
    storage_pair.run("copy", "start", *pair, "--volume", storage_pair.volume, "--wait")
    assert storage_pair.same()
