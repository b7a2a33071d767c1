"""`python -m sdmw` is the command `sdmw`."""

from sdmw.running.stop import until_exit


def main() -> None:
    """The command; signals are taken before what takes long to import."""
    with until_exit():
        from sdmw import cli

        cli.main()


if __name__ == "__main__":
    main()
