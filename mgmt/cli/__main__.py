"""``python -m mgmt.cli``: the ``sancredit`` command without its script."""

import sys

from mgmt.cli.main import main

sys.exit(main())
