"""`python -m cloudgateway`."""

import sys

from cloudgateway.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
