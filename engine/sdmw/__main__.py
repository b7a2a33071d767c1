"""`python -m sdmw` is the command `sdmw`."""

from sdmw.running.collector import nothing_to_collect
from sdmw.running.stop import until_exit


def main() -> None:
    """The command; signals are taken before what takes long to import."""
    with until_exit(), nothing_to_collect():
        from sdmw import cli

        cli.main()


if __name__ == "__main__":
    main()
