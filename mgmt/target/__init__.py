"""The embedded iSCSI target as a program: what its file and flags say, what it is composed of, its control API."""
