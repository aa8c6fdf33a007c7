# SPDX-License-Identifier: MIT
"""``python -m roofbench``."""

import sys

from roofbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
