"""The Fibre Channel port: buffer-to-buffer and end-to-end credit, its recovery, link states. Sans-IO, in picoseconds.

Start with :class:`fcsim.port.port.Port`; the parts it is made of stand alone and are tested alone.
"""
