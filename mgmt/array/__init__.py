"""A storage array process: disks, cache memory, communication interfaces with their reservations, and remote copy.

What it is asked to be: ``description`` the frozen values · ``configuration``, ``interface_tables``, ``sections`` read
from flags and TOML · ``secrets`` what arrays know each other by.

What it is made of (spec B, part 1): ``volumes`` its disks · ``cache`` the cache memory 102 · ``interface`` a
communication interface 208, of ``information`` (210) and ``buffer_control`` (215) over a pool 100 · ``interfaces`` all
of them, and which one a target belongs to · ``host_buffers`` Data-In and ``receive_buffers`` Data-Out charged to the
pools · ``portals`` the iSCSI targets for hosts and for other arrays · ``fc_port``, ``fc_rows`` a Fibre Channel port ·
``replication`` remote copy 103 · ``transports`` what carries it.

What runs it: ``control`` the messages of the management station, turned into calls · ``tables`` the read models that
the control API serves · ``expiry`` leases · ``process`` threads, signals, clean stop · ``cli`` the command.
"""
