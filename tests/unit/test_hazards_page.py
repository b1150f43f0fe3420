from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_page_of_hazards_is_up_to_date() -> None:
    """The table from hazards to tests to mutants is generated from the tests and mutants that exist."""
    script = ROOT / "docs" / "generate_hazards.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False, cwd=ROOT)
    assert done.returncode == 0, "run: python docs/generate_hazards.py"
