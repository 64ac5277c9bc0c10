// What a model is, and what it is worth: its self-check.
import { percent, say } from "./words.js";

/** The nodes of a model's card. */
export function cardOf(model) {
  const words = say();
  const trained = model.trained.steps
    ? `${model.trained.steps.toLocaleString("en")} ${words.steps}, ${(model.trained.seconds / 60).toFixed(1)} ${words.minutes}`
    : "–";
  const points = Object.entries(model.points).map(([name, point]) => {
    const scores = model.good_scores[name];
    const rate = scores.length ? `, ${percent((1 + scores.filter((score) => score > point.threshold).length) / (1 + scores.length))}` : "";
    return `${name}: ${point.threshold.toPrecision(5)}${rate}`;
  });
  const facts = { method: model.method, patch: model.patch, opening: model.opening, trained, points: points.join("; "), sha256: model.sha256.slice(0, 12) };
  const rows = Object.entries(facts).flatMap(([key, value]) => [text("dt", words.card[key]), text("dd", value)]);
  const list = document.createElement("dl");
  list.append(...rows);
  if (!model.check) return [list, text("p", words.unchecked)];
  const contrasts = [...new Set(model.check.sizes.map(({ contrast }) => contrast))];
  const kinds = [...new Set(model.check.sizes.map(({ kind }) => kind))];
  const sizes = table(
    ["", ...contrasts.map((contrast) => `${words.contrast} ${100 * contrast} %`)],
    kinds.map((kind) => [kind.replaceAll("_", " "), ...contrasts.map((contrast) => {
      const row = model.check.sizes.find((one) => one.kind === kind && one.contrast === contrast);
      return !Object.keys(row.rates).length ? "–" : row.smallest === null ? words.over : `${row.smallest} px`;
    })]),
  );
  const tolerated = table(["", words.upTo], model.check.tolerance.map(({ change, last }) => [change, last ?? words.none]));
  const warning = model.check.warning ? [text("p", model.check.warning)] : [];
  return [list, ...warning, text("h3", words.check), sizes, text("h3", words.tolerated), tolerated];
}

function text(tag, content) {
  const node = document.createElement(tag);
  node.textContent = content;
  return node;
}

function table(head, rows) {
  const node = document.createElement("table");
  const line = (cells, tag) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => text(tag, cell)));
    return row;
  };
  const top = document.createElement("thead");
  top.append(line(head, "th"));
  const body = document.createElement("tbody");
  body.append(...rows.map((cells) => line(cells, "td")));
  node.append(top, body);
  return node;
}
