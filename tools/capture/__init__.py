"""Packet captures: reading and writing the files, capturing on an interface, bytes in flight."""
