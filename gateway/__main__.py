"""``python -m gateway`` is ``turnout``."""

from gateway.cli import main

main()
