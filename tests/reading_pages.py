"""Reads a page as a browser would, as far as tests ask: tags, tables, charts."""

import json
from html.parser import HTMLParser


class Page(HTMLParser):
    """What is in a page.

    Attributes:
        tags: every tag that opens, in order.
        addresses: of all `src` and `href`.
        tables: by id the fields and the rows of cells, as text.
        charts: the table and the specification of each.
        scripts: the text of each.
        style: that of the style sheet.
        text: all else that people read.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.handlers, self.charts, self.scripts = [], [], [], [], []
        self.tables, self.style, self.text = {}, "", ""
        self._table = self._open = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.tags.append(tag)
        self.addresses += [told[name] for name in ("src", "href") if name in told]
        self.handlers += [name for name in told if name.startswith("on")]
        self._open = tag
        if tag == "table":
            self._table = self.tables[told["id"]] = ([], [])
        elif tag == "th":
            self._table[0].append(told["data-field"])
        elif tag == "tr" and self._table[0]:
            self._table[1].append([])
        elif tag == "td":
            self._table[1][-1].append("")
        elif tag == "script":
            self.scripts.append("")
        elif tag == "figure" and "data-spec" in told:
            self.charts.append((told["data-table"], json.loads(told["data-spec"])))

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open == "style":
            self.style += data
        else:
            self.text += data
            if self._open == "td":
                self._table[1][-1][-1] += data

    def column(self, table, field):
        """The cells of a column."""
        fields, rows = self.tables[table]
        return [row[fields.index(field)] for row in rows]


def fields_of(spec):
    """Every field that a specification draws."""
    if isinstance(spec, dict):
        if isinstance(field := spec.get("field"), str):
            yield field
        for value in spec.values():
            yield from fields_of(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from fields_of(value)
