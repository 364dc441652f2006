"""``python -m tokmagic.cli``."""

import sys

from tokmagic.cli import main

sys.exit(main())
