"""Fibre Channel over the shared reservation core: speeds and frame arithmetic so far."""
