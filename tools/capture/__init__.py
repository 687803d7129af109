"""Packet captures of iSCSI and Fibre Channel: read once into a table, explained, and played again.

The way of a capture: :class:`~tools.capture.scan.Scan` walks through files (mapped, or streamed where compressed) and
gives :class:`~tools.capture.rows.Part` after part of a table with one row per PDU or frame, in the order in which they
were complete; :class:`~tools.capture.exchange_kernel.Matcher` makes :class:`~tools.capture.exchanges.Exchange` of
commands and answers; :func:`~tools.capture.analysis.analyse` does both and keeps the exchanges::

    for part in Scan([path], keep_all=True).parts():   # keep_all: payloads too, part by part
        for row in part.rows():
            pdu = part.whole(row)                      # header, AHS, digests, data as they came

    with analyse([path]) as analysis:
        for exchange in analysis.store.exchanges():
            exchange.start_ns, exchange.cdb, exchange.ect_ns

The walk, the streams and the matching are ``*_kernel.py``: compiled where a C compiler is at hand, the same code plain.
"""
