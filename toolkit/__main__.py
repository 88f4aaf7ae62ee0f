"""`python -m toolkit`: what this machine and its packages can do, see `doctor`."""

import sys

from toolkit.cli.doctor import main

sys.exit(main())
