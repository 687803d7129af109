"""The lab: a small Debian guest in qemu with the kernel's own stacks — LIO, open-iscsi, dm-multipath, FCoE, netem.

Built from Debian's packages without root, kept in a cache, booted under plain emulation (KVM only where it answers).
"""
