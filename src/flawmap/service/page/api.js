// The service's interface. The token, if it asks for one, is kept for this tab alone.
import { say } from "./words.js";

let askForToken = async () => null;

export function onTokenWanted(ask) {
  askForToken = ask;
}

/** A request; asks for the token once where it is wanted. Throws an Error with the service's own sentence, or that it is silent. */
export async function request(place, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem("token");
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const answer = await fetch(place, { ...options, headers }).catch(() => {
      throw new Error(say().silent);
    });
    if (answer.ok) return answer;
    if (answer.status === 401) {
      const given = await askForToken();
      if (given) {
        sessionStorage.setItem("token", given);
        continue;
      }
    }
    const told = await answer.json().catch(() => null);
    const error = new Error(told?.error?.message ?? `${answer.status} ${answer.statusText}`);
    error.status = answer.status;
    error.retry = Number(answer.headers.get("Retry-After")) || 0;
    throw error;
  }
}

export const json = async (place, options) => (await request(place, options)).json();

/** Inspect a file; waits and tries again while the queue is full. */
export async function inspect(file, model, point) {
  const query = new URLSearchParams({ model, point, name: file.webkitRelativePath || file.name });
  for (;;) {
    try {
      return await json(`/v1/inspect?${query}`, { method: "POST", body: file });
    } catch (error) {
      if (error.status !== 503) throw error;
      await new Promise((done) => setTimeout(done, 1000 * (error.retry || 1)));
    }
  }
}

/** The opened map as Float32Array, row by row. */
export async function mapOf(result) {
  const bytes = await (await request(result.links.map)).arrayBuffer();
  if (new Uint8Array(new Uint32Array([1]).buffer)[0] !== 1) throw new Error("big-endian");
  return new Float32Array(bytes);
}

/** Results as the line gives them, for ever; state(true or false) tells of the connection. */
export async function follow(heard, state) {
  for (;;) {
    try {
      const answer = await request("/v1/events");
      state(true);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const parts = text.split("\n\n");
        text = parts.pop();
        for (const part of parts) {
          const line = part.split("\n").find((one) => one.startsWith("data: "));
          if (line) heard(JSON.parse(line.slice(6)));
        }
      }
    } catch {
      // told below
    }
    state(false);
    await new Promise((done) => setTimeout(done, 1500));
  }
}
