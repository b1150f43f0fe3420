"""Run the command line by `python -m unstale.cli`."""

from __future__ import annotations

from unstale.cli import main

if __name__ == "__main__":
    main()
