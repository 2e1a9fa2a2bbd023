"""`python -m gpuwarden.cli` is `gpuwarden`."""

from gpuwarden.cli import main

if __name__ == "__main__":
    main(prog_name="gpuwarden")
