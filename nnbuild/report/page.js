"use strict";
// Comfort only: without this script the page shows the same and every part of a picture is a link that Tab reaches.
(() => {
  for (const picture of document.querySelectorAll("[data-walk]")) {
    const cells = [...picture.querySelectorAll("a.cell")];
    const detail = picture.closest("section").querySelectorAll(".detail");
    const panel = [...detail].find((node) => picture.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING);
    const show = (cell) => { panel.textContent = cell.getAttribute("aria-label"); panel.hidden = false; };
    const stop = (cell) => cells.forEach((other) => other.setAttribute("tabindex", other === cell ? "0" : "-1"));
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -cells.length, End: cells.length };
    cells.forEach((cell, at) => {
      cell.addEventListener("focus", () => { stop(cell); show(cell); });
      cell.addEventListener("mouseenter", () => show(cell));
      cell.addEventListener("keydown", (event) => {
        if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault();
        cells[Math.min(cells.length - 1, Math.max(0, at + steps[event.key]))].focus();
      });
      cell.addEventListener("click", () => lead(cell.getAttribute("href")));
    });
    if (cells.length) stop(cells[0]);
  }

  function lead(href) {
    const target = document.getElementById(href.slice(1));
    if (!target) return;
    const folded = target.matches("details") ? target : target.querySelector("details");
    if (folded) folded.open = true;
    // The browser moves to the target itself, after this.
    setTimeout(() => (target.matches("details") ? target.querySelector("summary") : target).focus(), 0);
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    const value = (row, at) => {
      const text = (row.cells[at].firstChild || row.cells[at]).textContent.replaceAll(",", "").trim();
      return text !== "" && isFinite(text) ? Number(text) : -1;
    };
    heads.forEach((head, at) => {
      if (!head.classList.contains("num")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === (at ? "descending" : "ascending") ? !at : Boolean(at);
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((one, two) => (value(one, at) - value(two, at)) * (down ? -1 : 1));
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
