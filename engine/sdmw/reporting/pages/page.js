"use strict";
(() => {
  // "12.5%" is 0.125, "1,024" is 1024, "–" is missing; all else stays text.
  const valueOf = (text) => {
    if (text === "–") return null;
    const plain = text.replace(/,/g, "");
    const number = Number(plain.replace(/%$/, ""));
    if (plain === "" || Number.isNaN(number)) return text;
    return plain.endsWith("%") ? number / 100 : number;
  };

  const rowsOf = (table) => {
    const columns = [...table.tHead.rows[0].cells].map((cell) => [cell.dataset.field, cell.className === "text"]);
    return [...table.tBodies[0].rows].map((row) => Object.fromEntries(
      columns.map(([field, isText], at) => [field, isText ? row.cells[at].textContent : valueOf(row.cells[at].textContent)]),
    ));
  };

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [text, quiet, line] = ["--text", "--quiet", "--line"].map(colour);
    return {
      background: "transparent", font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: { labelColor: quiet, titleColor: quiet, gridColor: line, domainColor: line, tickColor: line },
      legend: { labelColor: text, titleColor: quiet, labelLimit: 400 },
      header: { labelColor: text, titleColor: quiet },
      title: { color: text },
      text: { color: text },
      rule: { color: text },
    };
  };

  const draw = (figure, tables) => {
    const name = figure.dataset.table;
    tables.set(name, tables.get(name) ?? rowsOf(document.getElementById(name)));
    const spec = { ...JSON.parse(figure.dataset.spec), data: { values: tables.get(name) } };
    const compiled = vegaLite.compile(spec, { config: colours() }).spec;
    const holder = figure.querySelector(".drawing");
    const renderer = tables.get(name).length > 1500 ? "canvas" : "svg";
    return new vega.View(vega.parse(compiled), { renderer, container: holder, hover: true }).runAsync();
  };

  const drawAll = async () => {
    const tables = new Map();
    for (const figure of document.querySelectorAll("figure.chart")) {
      await draw(figure, tables);
    }
    document.documentElement.dataset.drawn = "";
  };

  const sortBy = (table, at, header) => {
    const descending = header.getAttribute("aria-sort") !== "descending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    const keyed = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[at].textContent), row]);
    keyed.sort(([one], [other]) => {
      if (one === null || other === null) return (one === null) - (other === null);
      if (typeof one === "number" && typeof other === "number") return sign * (one - other);
      return sign * String(one).localeCompare(String(other), undefined, { numeric: true });
    });
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((header, at) => {
      const button = document.createElement("button");
      button.textContent = header.textContent;
      button.type = "button";
      button.addEventListener("click", () => sortBy(table, at, header));
      header.replaceChildren(button);
    });
  }

  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });
  if (document.querySelector("figure.chart")) {
    drawAll();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  }
})();
