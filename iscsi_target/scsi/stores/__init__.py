# SPDX-License-Identifier: Apache-2.0
"""Backing stores: where the blocks of a logical unit live. `store.py` says what every store promises."""
