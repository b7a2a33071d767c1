"""`python -m sdmw` is the command `sdmw`."""

import os

from sdmw.running.collector import nothing_to_collect
from sdmw.running.stop import until_exit


def main() -> None:
    """The command; signals are taken before what takes long to import."""
    with until_exit(), nothing_to_collect():
        # Pydantic would read the metadata of all packages that are installed, for plugins that watch programs.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        from sdmw import cli

        cli.main()


if __name__ == "__main__":
    main()
