"""Remote copy 103: a volume of this array is copied to a logical unit of another one (spec E.1, steps 813 to 815).

One-shot copies: ``plan`` which extents go where · ``job`` the states of one copy (both sans-IO) · ``engine`` the
thin asyncio shell that moves the data · ``remote_copy`` the requests M7 · ``history``.

Pairs and consistency groups: ``pair_state`` the table of states · ``bitmap``, ``tracker`` what has changed ·
``journal`` the numbered writes · ``remote_log`` what is written to the remote journal volume · ``admission`` whether
the remote image is ours · ``slow_down`` whose hosts wait (all without a loop) · ``replicated_store``, ``lanes``,
``guard`` hosts' writes · ``link_set``, ``stream``, ``group`` the primary's engine · ``secondary``,
``secondary_group`` the other end · ``pairs`` the verbs · ``pair_control``, ``assembly`` messages and the array.

Below both: ``transport`` what a copy asks of the protocol · ``iscsi_transport`` that over iSCSI, its bytes in reserved
memory buffers · ``fc_transport`` over Fibre Channel, its frames in reserved credits · ``remote_disk`` SCSI commands.
"""
