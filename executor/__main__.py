"""python -m executor doctor | run PROGRAM --tests FILE | bench"""

import sys

from executor.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
