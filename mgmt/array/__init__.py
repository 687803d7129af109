"""A storage array process: disks, a communication interface with its reservations, and remote copy (spec B, part 1).

``configuration`` what the process was asked to be · ``volumes`` its disks as files · ``interface`` the
communication interface 208: pool 100, information acquisition 210, buffer control 215 and the charging of host
Data-In · ``replication`` remote copy 103 · ``control`` the messages of the management station, turned into calls ·
``tables`` the read models that the control API serves · ``process`` threads, signals, clean stop · ``cli`` the
command.
"""
