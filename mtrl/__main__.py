"""`python -m mtrl` is `mtrl`."""

import sys

from mtrl.cli.main import main

sys.exit(main())
