"""The command `python -m toolkit`: a check of this machine and its packages, see `toolkit.cli.doctor`."""

import sys

from toolkit.cli.doctor import main

sys.exit(main())
