"""threestudio's launch command line, on the bundled host."""

import sys

from threestudio_asd.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["launch", *sys.argv[1:]]))
