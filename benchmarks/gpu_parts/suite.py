"""The tests that do more where there is CUDA."""

import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .setup import ROOT, Setup

#: Tests that do more where there is CUDA.
CUDA_TESTS = (
    "tests/kernels",
    "tests/studio/test_core_device.py",
    "tests/studio/test_models_rasterizer.py",
    "tests/cli/test_doctor.py",
    "tests/compare/test_machine.py",
    "tests/portable",
)


def tests(setup: Setup) -> None:
    """How many of the tests that do more on CUDA pass, and which fail."""
    chosen = ("tests/compare/test_machine.py",) if setup.reduced else CUDA_TESTS
    figures: dict[str, Any] = {"files": list(chosen)}
    figures["shapes_checked"] = importlib.util.find_spec("beartype") is not None
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *chosen]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "1" if setup.reduced else "8", "--dist", "worksteal"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        code = _followed([*command, f"--junitxml={report}"], setup, figures)
        if code not in (0, 1) or not report.exists():
            raise RuntimeError(f"pytest ended with status {code}")
        figures |= _counted(ElementTree.parse(report).getroot())
    n_failed = len(figures["failed"])
    figures["headline"] = (
        f"{figures['passed']} passed, {n_failed} failed, {figures['skipped']} skipped"
    )
    setup.tell(figures)


def _followed(command: list[str], setup: Setup, figures: dict[str, Any]) -> int:
    """Run pytest; its status. Its report comes at the end: until then lines are counted."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    seen: Counter[str] = Counter()
    failed: list[str] = []
    told = time.perf_counter()
    for line in process.stdout:
        print(line, end="", flush=True)
        outcome = re.search(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b", line)
        if outcome is None:
            continue
        seen[outcome[0].lower()] += 1
        if outcome[0] in ("FAILED", "ERROR"):
            failed += re.findall(r"tests/\S+", line)
        if time.perf_counter() - told > 1:
            setup.tell(figures | {"so_far": {**seen, "names": failed}})
            told = time.perf_counter()
    return process.wait()


def _counted(report: ElementTree.Element) -> dict[str, Any]:
    """Of pytest's JUnit report."""
    passed, skipped, failed = 0, 0, {}
    for case in report.iter("testcase"):
        wrong = [child for child in case if child.tag in ("failure", "error")]
        if wrong:
            name = f"{case.get('classname')}::{case.get('name')}"
            failed[name] = (wrong[0].get("message") or "").strip().splitlines()[:1]
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return {"passed": passed, "skipped": skipped, "failed": failed}
