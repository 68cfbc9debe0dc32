"""`python -m siftlens` is `siftlens`."""

from siftlens.cli import main

main()
