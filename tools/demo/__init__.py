"""``sancredit demo``: the main job, end to end, in real processes.

``settings`` what was asked for · ``image`` the disk image that is copied · ``processes`` start, watch and end the
real processes · ``storm`` the hosts that eat the free buffers · ``figure5`` the document's procedure, step by
step, through the management station · ``samples`` what was seen meanwhile · ``verdict`` what it proves ·
``report`` the same as plots and files · ``cli`` the command.
"""
