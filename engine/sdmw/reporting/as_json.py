"""Plain data as JSON text."""

import json
from typing import Any

LONG = 100  # entries; longer lists have a line an entry


def as_json(data: Any) -> str:
    """Indented, with a line end; of a long list each entry is a line; characters as they are wherever UTF-8 has them.

    A path may be any bytes. Python keeps those that are not UTF-8 as lone surrogates, which only escapes can express.
    """
    text = _text(data, ascii_only=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = _text(data, ascii_only=True)
    return f"{text}\n"


def _text(data: Any, *, ascii_only: bool) -> str:
    if not isinstance(data, dict):
        return json.dumps(data, indent=2, ensure_ascii=ascii_only)
    # Indenting is done in Python and takes ten times as long: 1.5 s for a report of 20,000 tensors.
    long = {name: value for name, value in data.items() if isinstance(value, list | tuple) and len(value) > LONG}
    lines = []
    for name, value in data.items():
        if name in long:
            entries = ",\n    ".join(json.dumps(each, ensure_ascii=ascii_only) for each in value)
            text = f"[\n    {entries}\n  ]"
        else:
            text = json.dumps(value, indent=2, ensure_ascii=ascii_only).replace("\n", "\n  ")
        lines.append(f"  {json.dumps(name, ensure_ascii=ascii_only)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}" if lines else "{}"
