"""The channel between two sites: bandwidth, round-trip time and a queue, with real TCP end to end.

:class:`tools.wan.channel.Channel` is the way in. Kinds: netem in the kernel, our TUN emulator, plain loopback.
"""
