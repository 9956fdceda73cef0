"""Read the facts of a threestudio checkout: ``python extract.py CHECKOUT [--out FOLDER]``.

Without ``--out`` the facts of this repository are replaced. What the checkout writes, it writes to
a temporary folder.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["CUDA_VISIBLE_DEVICES"] = ""


def main() -> None:
    from contract.collect import collect
    from contract.compare import FACTS, normal, write
    from contract.hosts import upstream, working_folder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--out", type=Path, default=FACTS)
    args = parser.parse_args()
    out = args.out.resolve()
    with tempfile.TemporaryDirectory() as scratch, working_folder(Path(scratch)):
        write(normal(collect(upstream(args.checkout.resolve()), Path(scratch))), out)


if __name__ == "__main__":
    main()
