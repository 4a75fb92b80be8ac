"""The benchmark runs. Its figures are judged elsewhere: a test machine is a busy one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

SPEED = Path(__file__).with_name("speed.py")


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    work, temporary = folder / "work", folder / "temporary"
    work.mkdir()
    temporary.mkdir()
    return subprocess.run(
        [sys.executable, SPEED, "--quick", *options],
        cwd=work,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )


def test_prints_every_goal_and_draws_the_picture(tmp_path: Path) -> None:
    """One table with a verdict on each goal of the contract, a picture, and nothing left behind."""
    result = run(tmp_path, "--svg", str(tmp_path / "speed.svg"))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if "|" in line]
    judged = [row for row in rows[2:] if row[-1] != "–"]
    assert rows[0] == ["what", "py_restart", "compared with", "ratio", "best", "goal", "holds"]
    assert {row[-1] for row in judged} <= {"yes", "at best", "NO"}
    for what in ("item of a loop", "each_save", "starting", "saving the position", "MB of", "resuming", "import"):
        assert any(what in row[0] for row in judged), what
    assert any(text.text == "py_restart" for text in ElementTree.parse(tmp_path / "speed.svg").getroot())
    assert list((tmp_path / "work").iterdir()) == list((tmp_path / "temporary").iterdir()) == []


def test_check_fails_where_a_goal_is_missed(tmp_path: Path) -> None:
    """`--check` names what is missed and exits with 1; a factor this small misses everything."""
    result = run(tmp_path, "--check", "--factor", "1e-9")
    assert result.returncode == 1, result.stderr
    assert "missed by more than 1e-09 times: an item of a loop" in result.stdout
