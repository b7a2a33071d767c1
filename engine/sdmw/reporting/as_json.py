"""Plain data as JSON text."""

import json
from typing import Any


def as_json(data: Any) -> str:
    """Indented, with a line end; characters as they are wherever UTF-8 has them.

    A path may be any bytes. Python keeps those that are not UTF-8 as lone surrogates, which only escapes can express.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(data, indent=2)
    return f"{text}\n"
