"""Chat templates of published prompt formats, by name; each file in `chat_formats` says where it is described."""

from importlib.resources import files

from sdmw.recipes.models import AUTO, TEMPLATES

NAMES = tuple(name for name in TEMPLATES if name != AUTO)


def chat_format(name: str) -> str:
    """The Jinja text of one of `NAMES`."""
    return files("sdmw.writing").joinpath("chat_formats", f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")
