"""``python -m monai_ldmsr``: the command ``ldmsr``, where its script is not installed."""

import sys

from monai_ldmsr.cli import main

if __name__ == "__main__":
    sys.exit(main())
