import { signal } from "@preact/signals";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Room } from "../rooms/room.ts";
import { type Api, MatrixError, NetworkError } from "../server/api.ts";
import type { ConnectionState } from "../server/liveConnection.ts";
import { apiAnswering, errorResponse, event } from "../testHelpers.ts";
import { type SendChannel, SendQueue } from "./sendQueue.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A channel that answers with `request`, or a closed one if that is null. */
function createChannel(request: SendChannel["request"] | null): SendChannel & { state: ReturnType<typeof signal<ConnectionState>> } {
  return { canRequest: request !== null, state: signal<ConnectionState>("online"), request: request ?? (async () => Promise.reject(new NetworkError(""))) };
}

function createRoom(api: Api): Room {
  const room = new Room(api, "!r:x", "@me:x");
  room.applyJoin({ state: { events: [event("$c", { type: "m.room.create", state_key: "", content: { room_version: "12" } })] } });
  return room;
}

function turnOnEncryption(room: Room): void {
  room.applyJoin({ state: { events: [event("$enc", { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } })] } });
}

const textContent = (body: string) => ({ msgtype: "m.text", body });
const transactionOf = (url: URL) => url.pathname.split("/").at(-1)!;

test("messages are sent one after the other, in order", async () => {
  const sent: string[] = [];
  let isBusy = false;
  const api = apiAnswering(async (_, { body }) => {
    expect(isBusy).toBe(false);
    isBusy = true;
    await Promise.resolve();
    isBusy = false;
    sent.push((body as { body: string }).body);
    return { event_id: `$${sent.length}` };
  });
  const room = createRoom(api);
  const sendQueue = new SendQueue(api, createChannel(null), "@me:x");
  for (const body of ["one", "two", "three"]) sendQueue.send(room, textContent(body));
  expect(room.timeline.pending).toHaveLength(3);
  await vi.waitFor(() => expect(sent).toEqual(["one", "two", "three"]));
  await vi.waitFor(() =>
    expect(room.timeline.pending.map(({ sendState, id }) => [sendState, id])).toEqual([
      ["sent", "$1"],
      ["sent", "$2"],
      ["sent", "$3"],
    ]),
  );
});

test("when the channel breaks, the same transaction is sent over HTTP", async () => {
  const transactions: string[] = [];
  const api = apiAnswering((url) => {
    transactions.push(transactionOf(url));
    return { event_id: "$1" };
  });
  const room = createRoom(api);
  const request = vi.fn(async () => Promise.reject(new NetworkError("broken")));
  const echo = new SendQueue(api, createChannel(request as SendChannel["request"]), "@me:x").send(room, textContent("x"));
  await vi.waitFor(() => expect(transactions).toEqual([echo.key]));
  expect(request).toHaveBeenCalledWith("send", expect.anything(), echo.key);
});

test("a rate limit is waited out", async () => {
  let requests = 0;
  const api = apiAnswering(() => (++requests === 1 ? errorResponse(429, "M_LIMIT_EXCEEDED", { retry_after_ms: 700 }) : { event_id: "$1" }));
  const room = createRoom(api);
  const limited = async () => Promise.reject(new MatrixError(429, "M_LIMIT_EXCEEDED", "slow down"));
  const echo = new SendQueue(api, createChannel(limited as SendChannel["request"]), "@me:x").send(room, textContent("x"));
  await vi.waitFor(() => expect(requests).toBe(1));
  expect(echo.sendState).toBe("sending");
  await vi.advanceTimersByTimeAsync(700);
  await vi.waitFor(() => expect(echo.sendState).toBe("sent"));
  expect(requests).toBe(2);
});

test("a refused message shows the server's error, and later ones are sent", async () => {
  const api = apiAnswering((_, { body }) => ((body as { body: string }).body === "bad" ? errorResponse(403, "M_FORBIDDEN") : { event_id: "$1" }));
  const room = createRoom(api);
  const sendQueue = new SendQueue(api, createChannel(null), "@me:x");
  const bad = sendQueue.send(room, textContent("bad"));
  const good = sendQueue.send(room, textContent("good"));
  await vi.waitFor(() => expect(good.sendState).toBe("sent"));
  expect([bad.sendState, bad.problem]).toEqual(["failed", "M_FORBIDDEN"]);
});

test("offline messages are sent later, with the same order and transactions", async () => {
  const sent: [string, string][] = [];
  let isOffline = true;
  const api = apiAnswering((url, { body }) => {
    if (isOffline) throw new TypeError("offline");
    sent.push([(body as { body: string }).body, transactionOf(url)]);
    return { event_id: `$${sent.length}` };
  });
  const room = createRoom(api);
  const live = createChannel(null);
  live.state.value = "offline";
  const sendQueue = new SendQueue(api, live, "@me:x");
  const echoes = ["one", "two"].map((body) => sendQueue.send(room, textContent(body)));
  await vi.waitFor(() => expect(echoes.map(({ sendState }) => sendState)).toEqual(["failed", "failed"]));
  isOffline = false;
  sendQueue.retryAll([room]);
  await vi.waitFor(() =>
    expect(sent).toEqual([
      ["one", echoes[0]!.key],
      ["two", echoes[1]!.key],
    ]),
  );
});

test("a single failed request is tried again after a while", async () => {
  let requests = 0;
  const api = apiAnswering(() => {
    if (++requests === 1) throw new TypeError("a hiccup");
    return { event_id: "$1" };
  });
  const room = createRoom(api);
  const echo = new SendQueue(api, createChannel(null), "@me:x").send(room, textContent("x"));
  await vi.waitFor(() => expect(echo.sendState).toBe("failed"));
  await vi.advanceTimersByTimeAsync(5_000);
  await vi.waitFor(() => expect(echo.sendState).toBe("sent"));
});

test("nothing is sent into an encrypted room", async () => {
  const requests = vi.fn(() => ({ event_id: "$1" }));
  const api = apiAnswering(requests);
  const room = createRoom(api);
  turnOnEncryption(room);
  const sendQueue = new SendQueue(api, createChannel(requests as unknown as SendChannel["request"]), "@me:x");
  expect(() => sendQueue.send(room, textContent("secret"))).toThrow("This room is encrypted");
  await expect(sendQueue.sendWithoutEcho(room, "m.reaction", {})).rejects.toThrow("This room is encrypted");
  expect(room.timeline.pending).toEqual([]);
  expect(requests).not.toHaveBeenCalled();
});

test("a failed message is not sent again once its room is encrypted", async () => {
  let isOffline = true;
  const sent: unknown[] = [];
  const api = apiAnswering((_, { body }) => {
    if (isOffline) throw new TypeError("offline");
    sent.push(body);
    return { event_id: "$1" };
  });
  const room = createRoom(api);
  const live = createChannel(null);
  live.state.value = "offline";
  const sendQueue = new SendQueue(api, live, "@me:x");
  const echo = sendQueue.send(room, textContent("secret"));
  await vi.waitFor(() => expect(echo.sendState).toBe("failed"));
  turnOnEncryption(room);
  isOffline = false;
  sendQueue.retryAll([room]);
  await vi.waitFor(() => expect(echo.problem).toMatch(/encrypted/));
  expect(sent).toEqual([]);
});

test("a queued message is not sent once its room is encrypted", async () => {
  const sent: string[] = [];
  let answer = (_: unknown): void => {};
  const api = apiAnswering(async (_, { body }) => {
    sent.push((body as { body: string }).body);
    return new Promise((resolve) => (answer = resolve));
  });
  const room = createRoom(api);
  const sendQueue = new SendQueue(api, createChannel(null), "@me:x");
  sendQueue.send(room, textContent("one"));
  const second = sendQueue.send(room, textContent("two"));
  await vi.waitFor(() => expect(sent).toEqual(["one"]));
  turnOnEncryption(room);
  answer({ event_id: "$1" });
  await vi.waitFor(() => expect(second.sendState).toBe("failed"));
  expect(sent).toEqual(["one"]);
});
