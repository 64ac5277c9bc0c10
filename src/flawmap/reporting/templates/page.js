
"use strict";
/* A click on a picture shows it large; arrows go to its neighbours, so that two of them can be compared in place. */
const buttons = [...document.querySelectorAll("button.zoom")];
const box = document.querySelector("dialog");
const caption = document.createElement("p");
const view = document.createElement("div");
const large = new Image();
let place = 0;

function show(to) {
  place = (to + buttons.length) % buttons.length;
  const image = buttons[place].querySelector("img");
  const alike = large.naturalWidth === image.naturalWidth && large.naturalHeight === image.naturalHeight;
  if (!box.open || !alike) view.classList.remove("full");
  large.src = image.src;
  large.alt = image.alt;
  caption.textContent = image.alt;
  if (!box.open) box.showModal();
  large.classList.toggle("exact", 2 * image.naturalWidth <= large.clientWidth && 2 * image.naturalHeight <= large.clientHeight);
}

/* Fitted, then at its own pixels with the clicked place in the middle, then closed. */
function turn(event) {
  const scale = Math.min(large.clientWidth / large.naturalWidth, large.clientHeight / large.naturalHeight);
  if (view.classList.contains("full") || scale >= 1) return box.close();
  const x = (event.offsetX - large.clientWidth / 2) / scale;
  const y = (event.offsetY - large.clientHeight / 2) / scale;
  view.classList.add("full");
  view.scrollTo((view.scrollWidth - view.clientWidth) / 2 + x, (view.scrollHeight - view.clientHeight) / 2 + y);
}

function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

const bar = document.createElement("div");
bar.className = "bar";
view.className = "view";
bar.append(caption, button("\u2190", "Previous picture", () => show(place - 1)), button("\u2192", "Next picture", () => show(place + 1)),
  button("Close", "Close", () => box.close()));
view.append(large);
box.append(bar, view);
box.setAttribute("aria-label", "Enlarged picture");
buttons.forEach((item, index) => item.addEventListener("click", () => show(index)));
large.addEventListener("click", turn);
box.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    event.preventDefault();
    show(place + (event.key === "ArrowRight" ? 1 : -1));
  }
});
box.addEventListener("close", () => buttons[place].focus());

/* A click on a heading sorts its table, a second one the other way round. */
const numeric = (text) => Number.parseFloat(text.replaceAll(",", "").replace("\u2212", "-").replace(/^[<>] /, ""));
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const name = head.textContent;
    const sort = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].textContent.trim();
      const rows = [...table.tBodies[0].rows];
      const numbers = rows.every((row) => !Number.isNaN(numeric(value(row))) || value(row) === "\u2013");
      const order = (a, b) => numbers ? (numeric(value(a)) || 0) - (numeric(value(b)) || 0) : value(a).localeCompare(value(b), "en", { numeric: true });
      rows.sort((a, b) => (down ? -1 : 1) * order(a, b));
      table.tBodies[0].append(...rows);
    };
    const made = button(name, `Sort by ${name}`, sort);
    made.className = "sort";
    head.replaceChildren(made);
  });
}
