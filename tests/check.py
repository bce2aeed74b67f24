"""``python -m tests.check``: lint, format, types and imports, a line each; 1 if one of them fails."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKS = {
    "lint": ("ruff", "check", "--quiet", "--output-format=concise", "."),
    "format": ("ruff", "format", "--quiet", "--check", "--output-format=concise", "."),
    "types": ("mypy", "--no-error-summary"),
    "imports": ("lint-imports", "--no-logo"),
}


def main() -> int:
    """Run every check, print what the failing ones say, and return the exit code."""
    failed = False
    for name, (tool, *arguments) in CHECKS.items():
        clock = time.monotonic()
        # The environment's own tools, whatever else is on PATH.
        command = [str(Path(sysconfig.get_path("scripts"), tool)), *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - clock
        verdict = "ok" if done.returncode == 0 else "NO"
        print(f"{verdict:<3} {name:<8} {' '.join([tool, *arguments])}  {seconds:.1f} s")
        if done.returncode != 0:
            failed = True
            print(done.stdout + done.stderr, end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
