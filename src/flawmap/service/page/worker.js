// Decides beside the page, so that it never waits.
import { decide } from "./regions.js";

let map = null;

onmessage = ({ data }) => {
  if (data.map) map = data;
  if (data.point && map) {
    const found = decide(map.map, map.width, map.height, data.point);
    postMessage({ ...found, asked: data.asked }, [found.mask.buffer]);
  }
};
