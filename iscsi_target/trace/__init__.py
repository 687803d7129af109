# SPDX-License-Identifier: Apache-2.0
"""What a target saw on the wire: a log of PDUs to assert on, and captures for other people's tools."""
