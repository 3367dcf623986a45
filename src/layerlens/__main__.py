"""`python -m layerlens` is the command line."""

import sys

from layerlens.cli import main

sys.exit(main())
