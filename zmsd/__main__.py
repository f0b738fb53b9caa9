"""``python -m zmsd``."""

from zmsd.cli import main

main()
