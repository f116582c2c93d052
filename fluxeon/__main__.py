"""``python -m fluxeon``: the same as the console script."""

from fluxeon.cli import main

if __name__ == "__main__":
    main()
