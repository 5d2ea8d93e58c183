"""Man pages, completions and the JSON schema are those of the command line as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SERVICE = Path(__file__).parents[3] / "service"
PRINT_STALE = """
import sys
sys.path.insert(0, sys.argv[1])
import generate
for path, text in generate.generated().items():
    if path.read_text() != text:
        print(path.name)
"""


def test_what_is_generated_is_up_to_date() -> None:
    stale = subprocess.run(
        [sys.executable, "-c", PRINT_STALE, str(SERVICE)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert not stale, "run `python service/generate.py`"
