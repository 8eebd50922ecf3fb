"""``python -m myelin.cli``: the same as ``myelin``."""

from myelin.cli.app import main

if __name__ == "__main__":
    main()
