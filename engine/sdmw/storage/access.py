"""How far the reading of inputs may go."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sdmw.storage.files import HEADER_LIMIT


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller allows while inputs are found and read.

    Attributes:
        download: models that are not in the local Hub cache may be downloaded.
        header_limit: bytes that the header of a file may have.
        follow_links: links that leave a model's folder are followed.
        folder: where directories that the recipe names are looked for; None for the working directory.
        commits: which of a model on the Hub or in its cache is read, by its name; of others the revision says it.
    """

    download: bool = False
    header_limit: int = HEADER_LIMIT
    follow_links: bool = False
    folder: str | None = None
    commits: Mapping[str, str] = field(default_factory=dict)


LEAST = Access()  # what is allowed where a caller says nothing
