"""Entry point: `python farm/run.py problem=4` runs what the ledger lacks, from any directory, also as a Ray job."""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    # Python puts farm/ first on the path, where a farm/queue.py would shadow the standard library's.
    sys.path[0] = ROOT
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
    try:
        from farm.cli import main

        sys.exit(main(["run", *sys.argv[1:]]))
    except KeyboardInterrupt:  # while the imports were under way
        sys.exit(130)
