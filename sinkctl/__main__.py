"""`python -m sinkctl`."""

from sinkctl.cli import main

main()
