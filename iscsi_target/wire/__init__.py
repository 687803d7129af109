# SPDX-License-Identifier: Apache-2.0
"""Wire formats of iSCSI: every PDU described once with construct, everything faster derived from it."""
