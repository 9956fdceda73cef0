"""Compare with numbers that the official codes of the family's other methods produced.

    python tests/references/family.py NUMBERS.safetensors WEIGHTS.safetensors

NUMBERS holds the inputs and results of each case and, as JSON in its metadata, what was set;
WEIGHTS is that of ``check.py``. Prints the largest relative error of each result; exits with 1 if
one is above 1e-4. Cases of what is no row of the method table are named and left out.
"""

import json
import sys
from pathlib import Path

from check import _part, told
from family_cases import READ as FAMILY
from family_cases import Case, Tensors
from rival_cases import READ as RIVALS
from safetensors import safe_open
from safetensors.torch import load_file

READ = FAMILY | RIVALS


def cases_of(numbers: Path) -> dict[str, Case]:
    """Case name -> what was set."""
    with safe_open(numbers, "pt") as file:
        return json.loads(file.metadata()["cases"])


def check(numbers: Path, weights: Path) -> dict[str, dict[str, float]]:
    """Case name -> result name -> largest error, relative to the result's largest entry; only the
    cases of methods that are rows here."""
    cases = cases_of(numbers)
    inputs, weights = load_file(numbers), load_file(weights)
    return {
        name: _errors(case, _part(inputs, name), weights)
        for name, case in cases.items()
        if case["method"] in READ
    }


def _errors(case: Case, x: Tensors, weights: Tensors) -> dict[str, float]:
    return {
        name: ((value - x[name].view_as(value)).abs().max() / x[name].abs().max()).item()
        for name, value in READ[case["method"]](case, x, weights).items()
    }


def main(numbers: str, weights: str) -> int:
    cases = cases_of(Path(numbers))
    if left := [name for name, case in cases.items() if case["method"] not in READ]:
        print(f"no rows here: {', '.join(left)}")
    return told(check(Path(numbers), Path(weights)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
