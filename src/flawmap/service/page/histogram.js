// Scores of good images, this image's place among them, and the threshold.
import { say } from "./words.js";

const BINS = 30;

export function drawHistogram(canvas, scores, score, threshold) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  canvas.setAttribute("aria-label", say().histogram(scores.length, score.toPrecision(4)));
  const top = 1.05 * Math.max(score, threshold, ...scores);
  const x = (value) => 8 + ((width - 16) * Math.max(0, value)) / top;
  const counts = new Array(BINS).fill(0);
  for (const one of scores) counts[Math.min(BINS - 1, Math.floor((BINS * Math.max(0, one)) / top))]++;
  const most = Math.max(1, ...counts);
  const floor = height - 26;
  context.fillStyle = colour("--soft");
  counts.forEach((count, place) => {
    const high = ((floor - 26) * count) / most;
    context.fillRect(x((place * top) / BINS) + 1, floor - high, (width - 16) / BINS - 2, high);
  });
  context.font = "16px system-ui, sans-serif";
  const line = (value, name, text, y, dashed) => {
    context.strokeStyle = context.fillStyle = colour(name);
    context.lineWidth = 3;
    context.setLineDash(dashed ? [6, 5] : []);
    context.beginPath();
    context.moveTo(x(value), 6);
    context.lineTo(x(value), floor);
    context.stroke();
    context.textAlign = x(value) > width / 2 ? "right" : "left";
    context.fillText(` ${text} `, x(value), y);
  };
  line(threshold, "--text", `${threshold.toPrecision(4)}`, 20, true);
  line(score, score > threshold ? "--flawed" : "--ok", say().here, 40, false);
  context.setLineDash([]);
  context.strokeStyle = colour("--line");
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(8, floor);
  context.lineTo(width - 8, floor);
  context.stroke();
  context.fillStyle = colour("--soft");
  context.textAlign = "left";
  context.fillText(`0  ${say().good} (${scores.length})`, 8, height - 6);
  context.textAlign = "right";
  context.fillText(top.toPrecision(3), width - 8, height - 6);
}
