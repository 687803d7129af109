"""An iSCSI target in a test: pytest fixtures, a blocking initiator, and what a failed test leaves behind.

The plugin is :mod:`tools.harness.plugin`; pytest finds it by itself once sancredit is installed.
"""
