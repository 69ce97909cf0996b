"use strict";
(() => {
  const table = document.querySelector("table[data-sortable]");
  const form = document.querySelector("form.filters");
  if (!table || !form) return;
  const body = table.tBodies[0];
  const region = table.parentElement;
  const heads = [...table.tHead.rows[0].cells];
  const original = [...body.rows];
  const collator = new Intl.Collator("en", { numeric: true });

  const text = (row, column) => row.cells[column].textContent;
  const number = (row, column) => {
    const value = row.cells[column].dataset.v;
    return value === undefined || value === "" ? null : Number(value);
  };

  // Sorting: ascending, descending, as measured. What is unknown stays last either way.
  const sort = (column, direction) => {
    const numeric = heads[column].dataset.kind === "number";
    const sign = direction === "descending" ? -1 : 1;
    const rows = [...original];
    if (direction !== "none") {
      rows.sort((a, b) => {
        if (!numeric) return sign * collator.compare(text(a, column), text(b, column));
        const x = number(a, column), y = number(b, column);
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (x - y);
      });
    }
    heads.forEach((head, index) => head.setAttribute("aria-sort", index === column ? direction : "none"));
    region.classList.toggle("sorted", direction !== "none"); // workloads stand together no longer
    body.append(...rows);
  };

  const next = { none: "ascending", ascending: "descending", descending: "none" };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(column, next[head.getAttribute("aria-sort")]));
  });

  // Filtering: every chosen value must match, and every word searched for must occur.
  const search = form.querySelector("[data-search]");
  const selects = [...form.querySelectorAll("[data-filter]")].map((select) => ({
    select,
    column: heads.findIndex((head) => head.dataset.key === select.dataset.filter),
  }));
  const count = form.querySelector("[data-count]");
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of original) {
      const whole = `${row.textContent} ${row.title}`.toLowerCase();
      row.hidden =
        !words.every((word) => whole.includes(word)) ||
        !selects.every(({ select, column }) => !select.value || text(row, column) === select.value);
      if (!row.hidden) shown += 1;
    }
    count.textContent = `${shown} of ${original.length} cases`;
  };
  // Without this script all columns are there; with it, those that most readers want.
  const more = form.querySelector("[data-more]");
  const show = () => {
    region.classList.toggle("lean", !more.checked);
    filter();
  };
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
})();
