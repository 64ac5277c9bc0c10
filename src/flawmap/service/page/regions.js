// The decision in the browser, pixel by pixel that of the server: hysteresis between the threshold and the level of
// masks, and a least area. See RegionGathering and InspectionBuilder in flawmap.

/** The 8-connected components of what lies above a level: labels from 1 (0: outside), and what each one is. */
export function components(map, width, height, level) {
  const labels = new Int32Array(map.length);
  const parents = [0];
  const root = (one) => {
    while (parents[one] !== one) one = parents[one] = parents[parents[one]];
    return one;
  };
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!(map[at] > level)) continue;
      let label = 0;
      const near = [
        x > 0 ? labels[at - 1] : 0,
        y > 0 && x > 0 ? labels[at - width - 1] : 0,
        y > 0 ? labels[at - width] : 0,
        y > 0 && x < width - 1 ? labels[at - width + 1] : 0,
      ];
      for (const other of near) {
        if (!other) continue;
        const known = root(other);
        if (!label) label = known;
        else if (known !== label) {
          const low = Math.min(known, label);
          parents[Math.max(known, label)] = low;
          label = low;
        }
      }
      if (!label) parents.push((label = parents.length));
      labels[at] = label;
    }
  }
  const found = new Map();
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!labels[at]) continue;
      const label = (labels[at] = root(labels[at]));
      let one = found.get(label);
      if (!one) found.set(label, (one = { label, area: 0, left: x, top: y, right: x, bottom: y, peak: -Infinity, sum: 0 }));
      one.area++;
      one.sum += map[at];
      if (map[at] > one.peak) one.peak = map[at];
      if (x < one.left) one.left = x;
      if (x > one.right) one.right = x;
      one.bottom = y;
    }
  }
  return { labels, found };
}

/** The mask (1: flaw) and the regions, the highest peak first. point: threshold, mask (level or null), area. */
export function decide(map, width, height, { threshold, mask: level, area }) {
  const mask = new Uint8Array(map.length);
  const regions = [];
  const low = level === null || level === undefined ? threshold : level;
  const layers = [[low, Infinity]];
  if (low > threshold) layers.push([threshold, low]);
  for (const [down, most] of layers) {
    const { labels, found } = components(map, width, height, down);
    const kept = new Set();
    for (const one of found.values()) {
      if (one.peak > threshold && one.peak <= most && one.area >= area) {
        kept.add(one.label);
        regions.push({
          area: one.area,
          box: [one.left, one.top, one.right - one.left + 1, one.bottom - one.top + 1],
          peak: one.peak,
          mean: one.sum / one.area,
        });
      }
    }
    if (kept.size) for (let at = 0; at < mask.length; at++) if (labels[at] && kept.has(labels[at])) mask[at] = 1;
  }
  regions.sort((a, b) => b.peak - a.peak || a.box[1] - b.box[1] || a.box[0] - b.box[0]);
  return { mask, regions };
}

/** How often a good image scores at least as high: (1 + those that do) / (n + 1). */
export function rateAt(scores, threshold) {
  return (1 + scores.filter((score) => score > threshold).length) / (scores.length + 1);
}

/** Thresholds to choose among, the highest first, each with the share of good images that it may reject. */
export function steps(scores, own) {
  const all = [...new Set([...scores, own])].sort((a, b) => b - a);
  return all.map((threshold) => ({ threshold, rate: rateAt(scores, threshold) }));
}
