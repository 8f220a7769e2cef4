// Sort a table by the column whose head is clicked, the other way round at the second click;
// numbers as numbers.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "ascending";
    const key = row => row.cells[column].textContent.trim();
    const number = text => /^[-+−]?[\d.]/.test(text) ? parseFloat(text.replace("−", "-")) : NaN;
    const order = (a, b) => {
      const [x, y] = [number(key(a)), number(key(b))];
      return Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b)) : x - y;
    };
    const rows = [...body.rows].sort((a, b) => (down ? 1 : -1) * order(a, b));
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "ascending" : "descending");
    body.append(...rows);
  }));
}
