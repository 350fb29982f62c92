// Helpers for the tests of the models: events, and a server with given responses.

import { Api } from "./server/api.ts";
import type { Content, RawEvent } from "./server/events.ts";

let count = 0;

export function event(id: string, options: Partial<RawEvent> & { content?: Content } = {}): RawEvent {
  count += 1;
  return { event_id: id, type: "m.room.message", sender: "@alice:x", origin_server_ts: count * 1_000, content: { msgtype: "m.text", body: id }, ...options };
}

export function edit(id: string, target: string, body: string, options: Partial<RawEvent> = {}): RawEvent {
  const content = {
    msgtype: "m.text",
    body: `* ${body}`,
    "m.new_content": { msgtype: "m.text", body },
    "m.relates_to": { rel_type: "m.replace", event_id: target },
  };
  return event(id, { content, ...options });
}

export function reaction(id: string, target: string, key: string, sender: string): RawEvent {
  return event(id, { type: "m.reaction", sender, content: { "m.relates_to": { rel_type: "m.annotation", event_id: target, key } } });
}

export function redaction(id: string, target: string): RawEvent {
  return event(id, { type: "m.room.redaction", content: { redacts: target } });
}

export function reply(id: string, root: string, options: Partial<RawEvent> = {}): RawEvent {
  return event(id, { content: { msgtype: "m.text", body: id, "m.relates_to": { rel_type: "m.thread", event_id: root } }, ...options });
}

type RequestHandler = (url: URL, request: { method: string; body: unknown; signal: AbortSignal | null }) => unknown;

/**
 * Returns an API whose server answers with the result of `answer`. A thrown error is a network failure; a `Response` is
 * passed on as it is.
 */
export function apiAnswering(answer: RequestHandler): Api {
  globalThis.fetch = (async (input: string | URL | Request, init: RequestInit = {}) => {
    const body: unknown = typeof init.body === "string" ? JSON.parse(init.body) : undefined;
    const answered = await answer(new URL(String(input)), { method: init.method ?? "GET", body, signal: init.signal ?? null });
    return answered instanceof Response ? answered : Response.json(answered);
  }) as typeof fetch;
  return new Api("https://x.example", "token");
}

export function errorResponse(status: number, errcode: string, more: Content = {}): Response {
  return Response.json({ errcode, error: errcode, ...more }, { status });
}
