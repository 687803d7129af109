"""Metrics of an iSCSI target for Prometheus: a collector over its read models, and the ``/metrics`` it is read from."""
