"""The whole suite in two halves at the same time: ``python -m tests``. Most of one half waits for processes."""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


def _has_tests(path: Path) -> bool:
    return path.name.startswith("test_") or (path.is_dir() and any(path.rglob("test_*.py")))


TESTS = Path(__file__).parent
WAITING = TESTS / "integration"  # takes longer than all the rest, so a part of it goes with the rest
WITH_THE_REST = ("many_replicas", "mixed_lives", "mixed_split", "replicas", "triton", "triton_managed")
MOVED = tuple(str(WAITING / f"test_{name}.py") for name in WITH_THE_REST)
HALVES = (
    (str(WAITING), *(f"--ignore={path}" for path in MOVED)),
    (*(str(path) for path in sorted(TESTS.iterdir()) if _has_tests(path) and path != WAITING), *MOVED),
)
POLL_S = 0.5


def main() -> int:
    """Run both, one's output as it comes and the other's afterwards; the worse exit status."""
    with TemporaryDirectory(prefix="turnout-tests-") as folder:
        shown, kept = (_start(half, Path(folder) / str(number)) for number, half in enumerate(HALVES))
        code = _follow(shown, Path(folder) / "0")
        print("the other half:", flush=True)
        other = _follow(kept, Path(folder) / "1")
    return code or other


def _start(half: tuple[str, ...], output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *half], cwd=TESTS.parent, stdout=file, stderr=subprocess.STDOUT
        )


def _follow(process: subprocess.Popen[bytes], output: Path) -> int:
    """Print what it writes until it has ended."""
    with output.open("rb") as file:
        while True:
            has_ended = process.poll() is not None
            if written := file.read():
                sys.stdout.buffer.write(written)
                sys.stdout.buffer.flush()
            elif has_ended:
                return process.returncode
            else:
                time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
