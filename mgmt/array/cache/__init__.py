"""The cache memory 102 of an array: host writes are answered when they are in it, and go to the disks later.

``pages`` what is where, which page goes to its disk next, and the watermarks (sans-IO) · ``slots`` the memory itself,
in a file that outlives the process, so that what was acknowledged survives a SIGKILL · ``memory`` the two together
with the thread that writes back · ``store`` a disk behind the cache · ``shortage`` when a copy asks for a larger
reservation because the cache is short (embodiment 5).
"""
