"""``python -m monai_ldmsr.cli``: the command, where its script is not installed."""

import sys

from monai_ldmsr.cli import main

if __name__ == "__main__":
    sys.exit(main())
