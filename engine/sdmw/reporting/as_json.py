"""Plain data as JSON text."""

import json
from typing import Any


def as_json(data: Any) -> str:
    """Indented, with a line end; characters as they are wherever UTF-8 has them.

    A path may be any bytes; what is no UTF-8 Python keeps as lone surrogates, and those only escapes can hold.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(data, indent=2)
    return f"{text}\n"
