# SPDX-License-Identifier: Apache-2.0
"""Wire formats of Fibre Channel: every format described once with construct, everything faster derived from it."""
