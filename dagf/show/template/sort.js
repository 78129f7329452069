// Tables sort by their headings: a click (or Enter, Space) sorts, the next turns it round, the third undoes it.
"use strict";

const BLANK = /^[–—-]?$/;

function number(text) {
  const plain = text.replaceAll("−", "-").replace(/(\d),(?=\d{3}\b)/g, "$1");
  const found = plain.match(/^[[(<>~≤≥±+ ]*(-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)/i);
  return found ? Number(found[1]) : NaN;
}

function sortable(table) {
  const once = table.tHead?.rows.length === 1 && table.tBodies.length === 1 && table.tBodies[0].rows.length > 1;
  return once && !table.matches(".parameters, :has([rowspan], [colspan])");
}

function enable(table, heading, column) {
  const body = table.tBodies[0], asWritten = [...body.rows];
  const text = (row) => row.cells[column]?.textContent.trim() ?? "";
  const filled = asWritten.map(text).filter((one) => !BLANK.test(one));
  const numeric = filled.length > 0 && !filled.some((one) => Number.isNaN(number(one)));
  const ways = numeric ? ["descending", "ascending"] : ["ascending", "descending"]; // the largest number first

  function compare(one, other) {
    const apart = numeric ? number(one) - number(other) : 0;
    return apart || one.localeCompare(other, "en", { numeric: true });
  }

  function sorted(way) {
    const turn = way === "ascending" ? 1 : -1;
    return [...asWritten].sort((one, other) => {
      const [a, b] = [text(one), text(other)];
      return BLANK.test(a) - BLANK.test(b) || turn * compare(a, b); // what is blank stays below
    });
  }

  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => {
    const way = ways[ways.indexOf(heading.getAttribute("aria-sort")) + 1];
    for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
    if (way) heading.setAttribute("aria-sort", way);
    body.append(...(way ? sorted(way) : asWritten));
  });
}

for (const table of document.querySelectorAll("table")) {
  if (sortable(table)) [...table.tHead.rows[0].cells].forEach((heading, column) => enable(table, heading, column));
}
