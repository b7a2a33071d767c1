"""`python -m sdmw` is the command `sdmw`."""

from sdmw.cli import main

main()
