"""`python -m siftlens` is `siftlens`."""

from siftlens.cli import main

if __name__ == "__main__":
    main()
