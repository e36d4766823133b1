"""``python -m hepcal.cli``."""

from hepcal.cli.commands import main

if __name__ == "__main__":
    main()
