# SPDX-License-Identifier: Apache-2.0
"""Fibre Channel with the device server of the iSCSI target behind it: what neither protocol package may know."""
