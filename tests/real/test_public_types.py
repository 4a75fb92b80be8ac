"""What a type checker knows of each public name: all of it. pyright runs in Node, which `pip` does not bring."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import py_restart

NAMES = {"CounterClosier", "InUseError", "RestartError", "config", "enable_counter", "multi_count", "simple_counter"}


@pytest.fixture(scope="module")
def report():
    """What `pyright --verifytypes` finds in the package; minutes may pass where it has to be fetched first."""
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "py_restart", "--outputjson"],
        env={**os.environ, "PYTHONPATH": str(Path(py_restart.__file__).parents[1])},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=300,
    )
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    return json.loads(done.stdout)["typeCompleteness"]


def test_every_public_name_has_a_complete_type(report):
    """`pyright --verifytypes py_restart`: 100 %."""
    unknown = {
        symbol["name"]: [one["message"] for one in symbol["diagnostics"]]
        for symbol in report["symbols"]
        if symbol["isExported"] and not symbol["isTypeKnown"]
    }
    assert unknown == {}
    assert report["completenessScore"] == 1


def test_nothing_else_is_public(report):
    """The names of the contract, as a type checker sees them."""
    assert report["exportedSymbolCounts"]["withUnknownType"] == report["exportedSymbolCounts"]["withAmbiguousType"] == 0
    of_package = {
        symbol["name"].split(".")[1]
        for symbol in report["symbols"]
        if symbol["name"].count(".") == 1 and symbol["name"].startswith("py_restart.")
    }
    public = {name for name in of_package if not name.startswith("_")}
    assert public <= NAMES
    assert set(py_restart.__all__) == NAMES
