"""`python -m edgeappliance` is `edgecore`."""

import sys

from edgeappliance.cli.main import main

sys.exit(main())
