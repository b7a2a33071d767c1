"""`python -m sdmw` is the command `sdmw`."""

from sdmw.running.stop import own_signals


def main() -> None:
    """The command; signals are taken before what takes long to import."""
    own_signals()
    from sdmw import cli

    cli.main()


if __name__ == "__main__":
    main()
