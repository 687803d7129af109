# SPDX-License-Identifier: Apache-2.0
"""Sans-IO cores of both ends of an iSCSI session (RFC 7143): bytes and facts in, bytes and events out."""
