
"use strict";
/* A click on a picture shows it large; arrows go to its neighbours, so that two of them can be compared in place. */
const buttons = [...document.querySelectorAll("button.zoom")];
const box = document.querySelector("dialog");
const name = document.createElement("p");
const view = document.createElement("div");
const large = new Image();
let place = 0;

function show(to) {
  place = (to + buttons.length) % buttons.length;
  const image = buttons[place].querySelector("img");
  large.src = image.src;
  large.alt = image.alt;
  name.textContent = image.alt;
  view.classList.remove("full");
  if (!box.open) box.showModal();
  large.classList.toggle("exact", 2 * image.naturalWidth <= large.clientWidth && 2 * image.naturalHeight <= large.clientHeight);
}

function turn() {
  const larger = large.naturalWidth > large.clientWidth || large.naturalHeight > large.clientHeight;
  if (view.classList.contains("full") || !larger) box.close();
  else view.classList.add("full");
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
bar.append(name, button("\u2190", "Previous picture", () => show(place - 1)), button("\u2192", "Next picture", () => show(place + 1)),
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
box.addEventListener("close", () => buttons[place].focus({ preventScroll: false }));
