"""``/redfish/v1``: the read side of the station in the shapes of Redfish (DSP0266) and Swordfish.

Arrays are ``Storage``, their ports ``Port`` with ``Metrics``, a port pair two ``Endpoint`` and one ``Connection`` of a
fabric. What the standard lacks (the pool, the reservation, the channel) is under ``Oem.Sancredit``, with the names of
``/api/v1``.
"""
