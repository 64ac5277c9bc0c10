// The page: a list of results, the image in the middle, the decision on the right.
import { follow, inspect, json, onTokenWanted, request } from "./api.js";
import { cardOf } from "./card.js";
import { drawHistogram } from "./histogram.js";
import { Pane } from "./pane.js";
import { steps } from "./regions.js";
import { percent, say, speak } from "./words.js";

const $ = (id) => document.getElementById(id);
const state = { models: [], results: [], panes: [], active: null, steps: [], connected: null };

// ------------------------------------------------------------------------------------------------------------- start

onTokenWanted(() => new Promise((done) => {
  const box = $("token-box");
  $("token").value = "";
  $("token-form").onsubmit = (event) => {
    event.preventDefault();
    box.close();
    done($("token").value);
  };
  box.oncancel = () => done(null);
  if (!box.open) box.showModal();
}));

async function start() {
  const kept = localStorage.getItem("language") ?? (navigator.language.startsWith("ja") ? "ja" : "en");
  $("language").value = kept;
  speak(kept);
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "";
  setPanes(1);
  state.models = await json("/v1/models");
  $("model").replaceChildren(...state.models.map(({ name }) => new Option(name, name)));
  fillPoints();
  await load();
  if (state.results.length) choose(state.results[0]);
  follow(heard, (up) => {
    state.connected = up;
    tellConnection();
  });
}

function tellConnection() {
  if (state.connected !== null) $("connection").textContent = state.connected ? say().connected : say().lost;
}

const modelOf = (result) => state.models.find(({ name }) => name === result.model);

function fillPoints() {
  const model = state.models.find(({ name }) => name === $("model").value);
  $("point").replaceChildren(...Object.keys(model.points).map((name) => new Option(name, name, false, name === model.active)));
}

function problem(text) {
  const line = document.createElement("li");
  line.textContent = text;
  $("problems").append(line);
}

/** An action of the page; what fails in it stands in the list of problems. */
const telling = (action) => async (...given) => {
  try {
    await action(...given);
  } catch (error) {
    problem(error.message);
  }
};

// -------------------------------------------------------------------------------------------------------------- list

async function load(before) {
  const filter = $("filter").value;
  const rows = await json(`/v1/results?limit=50${filter ? `&${filter}` : ""}${before ? `&before=${before}` : ""}`);
  state.results = before ? [...state.results, ...rows] : rows;
  $("more").hidden = rows.length < 50;
  list();
}

function list() {
  $("results").replaceChildren(...state.results.map((result) => {
    const line = document.createElement("li");
    line.className = result.verdict;
    line.dataset.id = result.id;
    line.setAttribute("aria-current", String(state.active?.result?.id === result.id));
    const small = document.createElement("small");
    const reviewed = result.review ? `, ${say().reviewedAs[result.review]}` : "";
    small.textContent = `${say().verdict[result.verdict]}, ${result.score.toPrecision(4)}${reviewed} · ${new Date(1000 * result.at).toLocaleString(document.documentElement.lang)}`;
    line.append(result.name, small);
    line.onclick = () => choose(result);
    return line;
  }));
}

$("results").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const place = state.results.findIndex(({ id }) => id === state.active?.result?.id);
  const next = state.results[Math.max(0, Math.min(state.results.length - 1, place + step))];
  if (next) choose(next);
  $("results").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
});

/** A result of the line, new or reviewed. */
function heard(result) {
  const place = state.results.findIndex(({ id }) => id === result.id);
  if (place >= 0) state.results[place] = result;
  else if (matches(result)) state.results.unshift(result);
  list();
  if (state.active?.result?.id === result.id) {
    state.active.result = result;
    tellReview(result);
  } else if (place < 0 && $("follow").checked && matches(result)) choose(result);
}

function matches(result) {
  const [key, value] = $("filter").value.split("=");
  return !key || (key === "review" ? result.review === null : result[key] === value);
}

// ------------------------------------------------------------------------------------------------------------- image

function setPanes(count) {
  while (state.panes.length > count) state.panes.pop().close();
  while (state.panes.length < count) {
    const pane = new Pane(activate, (one) => one === state.active && tellDecision());
    state.panes.push(pane);
    $("panes-box").append(pane.root);
  }
  $("panes-box").dataset.panes = count;
  if (!state.panes.includes(state.active)) activate(state.panes[0]);
}

function activate(pane) {
  if (state.active === pane) return;
  state.active = pane;
  for (const one of state.panes) one.root.classList.toggle("active", one === pane && state.panes.length > 1);
  if (pane.result) tell();
  list();
}

async function choose(result) {
  $("hint").hidden = true;
  const pane = state.active;
  const point = { ...modelOf(result)?.points[result.point], threshold: result.threshold };
  if (point.mask === undefined) Object.assign(point, { mask: null, area: 1 });
  pane.opacity = $("opacity").value / 100;
  pane.outlines = $("outlines").checked;
  pane.chosen = null;
  const shown = pane.show(result, point);
  tell();
  list();
  try {
    await shown;
  } catch (error) {
    problem(`${result.name}: ${error.message || say().browser}`);
  }
}

function tell() {
  const { result, point } = state.active;
  const scores = modelOf(result)?.good_scores[result.point] ?? [];
  state.steps = steps(scores, result.threshold);
  $("rate").max = Math.max(0, state.steps.length - 1);
  tellReview(result);
  tellDecision();
  $("threshold").value = point.threshold;
}

/** What the point chosen in the page makes of the image. */
function tellDecision() {
  const { result, point, regions, mask } = state.active;
  const scores = modelOf(result)?.good_scores[result.point] ?? [];
  const decided = mask ? regions : result.regions;
  const verdict = decided.length ? "flawed" : "ok";
  $("verdict").textContent = say().verdict[verdict];
  $("verdict").className = verdict;
  const pixels = mask ? regions.reduce((sum, { area }) => sum + area, 0) : result.flawed_pixels;
  const values = [
    `${result.name} (${result.width} × ${result.height})`, result.score.toPrecision(5),
    result.p_value === null ? "–" : result.p_value.toPrecision(3), point.threshold.toPrecision(5), pixels.toLocaleString("en"),
    decided.length, `${result.model} (${result.model_sha256.slice(0, 12)})`, `${(result.timings.inspected ?? 0).toFixed(3)} s`,
  ];
  $("numbers").replaceChildren(...say().numbers.flatMap((name, place) => {
    const [term, value] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    value.textContent = values[place];
    return [term, value];
  }));
  const step = state.steps.findIndex(({ threshold }) => threshold <= point.threshold);
  $("rate").value = step < 0 ? state.steps.length - 1 : step;
  const above = scores.filter((score) => score > point.threshold).length;
  $("rate-text").textContent = scores.length ? say().rateText((1 + above) / (1 + scores.length), scores.length) : say().noRate;
  drawHistogram($("histogram"), scores, result.score, point.threshold);
  $("regions").tBodies[0].replaceChildren(...decided.slice(0, 500).map((region, place) => {
    const row = document.createElement("tr");
    row.tabIndex = 0;
    const [left, top, width, height] = region.box;
    for (const text of [place + 1, region.area, region.peak.toPrecision(4), region.mean.toPrecision(4), `${left}, ${top}, ${width} × ${height}`]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      row.append(cell);
    }
    const look = () => {
      for (const other of row.parentNode.children) other.classList.toggle("chosen", other === row);
      state.active.lookAt(region);
    };
    row.onclick = look;
    row.onkeydown = (event) => event.key === "Enter" && look();
    return row;
  }));
}

function decideAt(threshold) {
  const pane = state.active;
  if (!pane?.result || !Number.isFinite(threshold)) return;
  pane.chosen = null;
  pane.decide({ ...pane.point, threshold });
}

$("rate").oninput = () => {
  const chosen = state.steps[$("rate").value];
  if (!chosen) return;
  $("threshold").value = chosen.threshold;
  $("rate-text").textContent = percent(chosen.rate);
  decideAt(chosen.threshold);
};
$("threshold").onchange = () => decideAt($("threshold").valueAsNumber);
$("own").onclick = () => {
  if (!state.active?.result) return;
  $("threshold").value = state.active.result.threshold;
  decideAt(state.active.result.threshold);
};

// ------------------------------------------------------------------------------------------------------------ review

function tellReview(result) {
  $("note").value = result.note ?? "";
  $("reviewed").textContent = result.review ? say().reviewedAs[result.review] : "";
}

$("review").onsubmit = async (event) => {
  event.preventDefault();
  const result = state.active?.result;
  if (!result) return;
  const body = JSON.stringify({ review: event.submitter?.value || null, note: $("note").value || null });
  try {
    const changed = await json(result.links.self, { method: "PATCH", body, headers: { "Content-Type": "application/json" } });
    state.active.result = changed;
    const place = state.results.findIndex(({ id }) => id === changed.id);
    if (place >= 0) state.results[place] = changed;
    tellReview(changed);
    list();
  } catch (error) {
    $("reviewed").textContent = `${say().failed}: ${error.message}`;
  }
};

// ------------------------------------------------------------------------------------------------------------ images

async function send(files) {
  const images = [...files].filter((file) => file.size || file.type);
  const following = $("follow").checked;
  $("follow").checked = false;
  $("problems").replaceChildren();
  $("progress").hidden = false;
  $("progress").max = images.length;
  let last = null;
  for (const [done, file] of images.entries()) {
    $("progress").value = done;
    $("progress").setAttribute("aria-label", say().progress(done, images.length));
    try {
      last = await inspect(file, $("model").value, $("point").value);
      heard(last);
    } catch (error) {
      problem(error.message);
    }
  }
  $("progress").hidden = true;
  $("follow").checked = following;
  if (last) choose(last);
}

for (const id of ["files", "folder"])
  $(id).onchange = () => send($(id).files).finally(() => ($(id).value = ""));

for (const name of ["dragover", "dragleave", "drop"])
  document.addEventListener(name, async (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") send(await filesOf(event.dataTransfer));
  });

/** Dropped files, those of dropped folders included. */
async function filesOf(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return data.files;
  const walk = async (entry) => {
    if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return found.flat();
      for (const one of some) found.push(await walk(one));
    }
  };
  return (await Promise.all(entries.map(walk))).flat();
}

// ------------------------------------------------------------------------------------------------------------- rest

$("model").onchange = fillPoints;
$("filter").onchange = telling(() => load());
$("more").onclick = telling(() => load(state.results.at(-1)?.id));
$("opacity").oninput = () => redraw((pane) => (pane.opacity = $("opacity").value / 100));
$("outlines").onchange = () => redraw((pane) => (pane.outlines = $("outlines").checked));
$("zoom-in").onclick = () => state.active?.zoom(1.25);
$("zoom-out").onclick = () => state.active?.zoom(0.8);
$("zoom-fit").onclick = () => state.active?.fit();
$("panes").onchange = () => setPanes(Number($("panes").value));
$("language").onchange = () => {
  localStorage.setItem("language", $("language").value);
  speak($("language").value);
  tellConnection();
  list();
  if (state.active?.result) tell();
};
$("theme").onclick = () => {
  const dark = getComputedStyle(document.body).colorScheme === "dark" || document.documentElement.dataset.theme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
  if (state.active?.result) tellDecision();
};
$("card-open").onclick = () => {
  const model = state.models.find(({ name }) => name === $("model").value);
  if (model) $("card-body").replaceChildren(...cardOf(model));
  $("card").showModal();
};
for (const button of document.querySelectorAll(".export"))
  button.onclick = telling(async () => {
    const form = button.dataset.form;
    const filter = $("filter").value;
    const content = await (await request(`/v1/export?to=${form}${filter ? `&${filter}` : ""}`)).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = `results.${form === "coco" ? "json" : form}`;
    link.click();
    URL.revokeObjectURL(link.href);
  });

function redraw(change) {
  for (const pane of state.panes) {
    change(pane);
    pane.draw();
  }
}

window.flawmap = state; // for tests, and for whoever is curious
telling(start)();
