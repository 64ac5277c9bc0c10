// One image with its evidence: zoom, pan, colours and outlines. The decision comes from the worker.
import { json, mapOf, request } from "./api.js";
import { say } from "./words.js";

// cividis (Nuñez, Anderton and Renslow 2018, doi:10.1371/journal.pone.0199239): even, and alike for colour-blind eyes.
const CIVIDIS = [[0, 32, 76], [0, 42, 102], [0, 52, 110], [39, 63, 108], [60, 74, 107], [76, 85, 107], [91, 95, 109],
  [104, 106, 112], [117, 117, 117], [131, 129, 120], [146, 140, 120], [161, 152, 118], [176, 165, 114], [192, 178, 109],
  [208, 191, 100], [225, 204, 90], [243, 219, 78], [255, 233, 69]];
const HEAT = 2.5; // thresholds: where the colours end
const OUTLINE = [0, 230, 90];

export class Pane {
  constructor(onChosen, onDecided) {
    this.root = document.createElement("figure");
    this.root.className = "pane";
    this.root.style.margin = "0";
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.caption = document.createElement("figcaption");
    this.root.append(this.canvas, this.caption);
    this.onDecided = onDecided;
    this.worker = new Worker("/page/worker.js", { type: "module" });
    this.worker.onmessage = ({ data }) => this.decided(data);
    this.asked = 0;
    this.opacity = 0.45;
    this.outlines = true;
    this.root.addEventListener("pointerdown", () => onChosen(this), true);
    this.canvas.addEventListener("focus", () => onChosen(this));
    this.listen();
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.root);
  }

  close() {
    this.observer.disconnect();
    this.worker.terminate();
    this.root.remove();
  }

  /** Show a result at an operating point. */
  async show(result, point) {
    this.result = result;
    this.point = point;
    this.caption.textContent = result.name;
    this.canvas.setAttribute("aria-label", result.name);
    this.image = this.map = this.mask = this.paint = null;
    this.regions = [];
    this.draw();
    if (!result.links.map) {
      this.caption.textContent = `${result.name}: ${say().notKept}`;
      return;
    }
    const [picture, map] = await Promise.all([
      request(result.links["image.png"]).then((answer) => answer.blob()).then(createImageBitmap),
      mapOf(result),
    ]);
    if (this.result.id !== result.id) return;
    this.image = picture;
    this.map = map;
    this.worker.postMessage({ map, width: result.width, height: result.height });
    this.coloured();
    this.fit();
    this.decide(point);
  }

  decide(point) {
    this.point = point;
    this.worker.postMessage({ point, asked: ++this.asked });
  }

  decided({ mask, regions, asked }) {
    if (asked !== this.asked || !this.result) return;
    this.mask = mask;
    this.regions = regions;
    this.drawnOutlines = this.outlined();
    this.draw();
    this.onDecided(this);
  }

  /** The map's colours, once for each image: the scale ends at so many of the result's thresholds. */
  coloured() {
    const { width, height, threshold } = this.result;
    const pixels = new ImageData(width, height);
    const scale = 255 / (HEAT * threshold);
    const table = new Uint8ClampedArray(256 * 3);
    for (let one = 0; one < 256; one++) {
      const place = (one / 255) * (CIVIDIS.length - 1);
      const low = Math.min(Math.floor(place), CIVIDIS.length - 2);
      for (let c = 0; c < 3; c++) table[3 * one + c] = CIVIDIS[low][c] + (place - low) * (CIVIDIS[low + 1][c] - CIVIDIS[low][c]);
    }
    for (let at = 0; at < this.map.length; at++) {
      const level = Math.max(0, Math.min(255, Math.round(this.map[at] * scale)));
      pixels.data.set(table.subarray(3 * level, 3 * level + 3), 4 * at);
      pixels.data[4 * at + 3] = Math.max(0, Math.min(255, (255 * this.map[at]) / threshold)); // opaque from the threshold on
    }
    this.paint = canvasOf(pixels);
  }

  /** Pixels just outside of flaws. */
  outlined() {
    const { width, height } = this.result;
    const pixels = new ImageData(width, height);
    for (let y = 0, at = 0; y < height; y++)
      for (let x = 0; x < width; x++, at++) {
        if (this.mask[at]) continue;
        if ((x && this.mask[at - 1]) || (x < width - 1 && this.mask[at + 1]) || (y && this.mask[at - width]) || (y < height - 1 && this.mask[at + width]))
          pixels.data.set([...OUTLINE, 255], 4 * at);
      }
    return canvasOf(pixels);
  }

  // ---------------------------------------------------------------------------------------------------- zoom and pan

  listen() {
    const held = new Map();
    let apart = 0;
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, [event.offsetX, event.offsetY]);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId);
      if (!before) return;
      held.set(event.pointerId, [event.offsetX, event.offsetY]);
      if (held.size === 1) this.move(event.offsetX - before[0], event.offsetY - before[1]);
      else {
        const [a, b] = [...held.values()];
        const now = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (apart) this.zoom(now / apart, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
        apart = now;
      }
    });
    for (const name of ["pointerup", "pointercancel"])
      this.canvas.addEventListener(name, (event) => {
        held.delete(event.pointerId);
        apart = 0;
      });
    this.canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      if (moves[event.key]) this.move(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoom(1.25);
      else if (event.key === "-") this.zoom(0.8);
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
    });
  }

  get size() {
    return [this.canvas.clientWidth || 1, this.canvas.clientHeight || 1];
  }

  resized() {
    const [width, height] = this.size;
    const dense = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * dense);
    this.canvas.height = Math.round(height * dense);
    if (this.view?.fitted) this.fit();
    else this.draw();
  }

  fit() {
    if (!this.result) return;
    const [width, height] = this.size;
    const scale = Math.min(width / this.result.width, height / this.result.height) * 0.98;
    this.view = { scale, x: (width - scale * this.result.width) / 2, y: (height - scale * this.result.height) / 2, fitted: true };
    this.draw();
  }

  zoom(factor, x = this.size[0] / 2, y = this.size[1] / 2) {
    if (!this.view) return;
    const scale = Math.max(0.01, Math.min(64, this.view.scale * factor));
    const by = scale / this.view.scale;
    this.view = { scale, x: x - by * (x - this.view.x), y: y - by * (y - this.view.y) };
    this.draw();
  }

  move(x, y) {
    if (!this.view) return;
    this.view = { ...this.view, x: this.view.x + x, y: this.view.y + y, fitted: false };
    this.draw();
  }

  /** A region in the middle, with room around it. */
  lookAt(region) {
    const [width, height] = this.size;
    const [left, top, wide, high] = region.box;
    const scale = Math.min(16, Math.max(this.view?.scale ?? 0.1, Math.min(width / (4 * wide), height / (4 * high))));
    this.view = { scale, x: width / 2 - scale * (left + wide / 2), y: height / 2 - scale * (top + high / 2) };
    this.chosen = region;
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const dense = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.image || !this.view) return;
    const { scale, x, y } = this.view;
    context.setTransform(dense * scale, 0, 0, dense * scale, dense * x, dense * y);
    context.imageSmoothingEnabled = scale < 2;
    context.drawImage(this.image, 0, 0);
    if (this.opacity > 0 && this.paint) {
      context.globalAlpha = this.opacity;
      context.drawImage(this.paint, 0, 0);
      context.globalAlpha = 1;
    }
    if (this.outlines && this.drawnOutlines && this.mask) context.drawImage(this.drawnOutlines, 0, 0);
    if (this.chosen && this.mask) {
      context.lineWidth = 2 / scale;
      context.strokeStyle = "#fff";
      const [left, top, width, height] = this.chosen.box;
      context.strokeRect(left - 3 / scale, top - 3 / scale, width + 6 / scale, height + 6 / scale);
    }
  }
}

function canvasOf(pixels) {
  const canvas = document.createElement("canvas");
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** The result anew, as the service knows it. */
export const refreshed = (result) => json(result.links.self);
