"""Remote copy 103: a volume of this array is copied to a logical unit of another one (spec E.1, steps 813 to 815).

``plan`` which extents go where · ``job`` the states of one copy (both sans-IO) · ``transport`` what a copy asks of
the protocol below it · ``iscsi_transport`` that over iSCSI, its bytes in reserved memory buffers · ``engine`` the
thin asyncio shell that moves the data.
"""
