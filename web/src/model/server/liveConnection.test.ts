import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { apiAnswering, errorResponse } from "../testHelpers.ts";
import type { MatrixError } from "./api.ts";
import type { SyncUpdate } from "./events.ts";
import { LiveConnection, type Socket } from "./liveConnection.ts";

/** A WebSocket whose other end is the test. */
class FakeSocket {
  readyState = 0;
  sent: { id: string; method: string; params: Record<string, unknown> }[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;
  onerror: (() => void) | null = null;

  constructor(readonly url: URL) {}

  send(data: string): void {
    this.sent.push(JSON.parse(data) as FakeSocket["sent"][number]);
  }

  close(code = 1005): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    queueMicrotask(() => this.onclose?.({ code }));
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  says(frame: unknown): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  /** Opens the socket and accepts the token. */
  async welcome(): Promise<void> {
    this.open();
    await vi.waitFor(() => expect(this.sent[0]?.method).toBe("authenticate"));
    this.says({ id: this.sent[0]!.id, result: {} });
    await vi.advanceTimersByTimeAsync(0);
  }
}

let sockets: FakeSocket[];
let updates: string[];
let syncs: URL[];
let running: LiveConnection | null;

beforeEach(() => {
  vi.useFakeTimers();
  [sockets, updates, syncs, running] = [[], [], [], null];
});
afterEach(() => {
  running?.stop();
  vi.useRealTimers();
});

type SyncHandler = (url: URL, signal: AbortSignal | null) => unknown;

const neverAnswer: SyncHandler = async (_, signal) => new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason as Error)));

function start(sync: SyncHandler = neverAnswer, lost: (error: MatrixError) => void = () => {}): LiveConnection {
  const api = apiAnswering((url, { signal }) => {
    if (url.pathname.endsWith("/whoami")) return errorResponse(401, "M_UNKNOWN_TOKEN");
    syncs.push(url);
    return sync(url, signal);
  });
  api.onUnknownToken = lost;
  const openSocket = (url: string) => {
    const socket = new FakeSocket(new URL(url));
    sockets.push(socket);
    return socket as unknown as Socket;
  };
  running = new LiveConnection(api, { filter: {}, presence: () => "online", openSocket }, (update: SyncUpdate) => updates.push(update.next_batch));
  running.start();
  return running;
}

async function socketNumber(number: number): Promise<FakeSocket> {
  await vi.waitFor(() => expect(sockets.length).toBeGreaterThanOrEqual(number), { interval: 100, timeout: 30_000 });
  return sockets[number - 1]!;
}

test("the first frame authenticates, and updates follow", async () => {
  const connection = start();
  const socket = await socketNumber(1);
  await socket.welcome();
  expect(socket.sent[0]).toMatchObject({ method: "authenticate", params: { access_token: "token" } });
  expect(socket.url.searchParams.has("access_token")).toBe(false);
  socket.says({ next_batch: "s1" });
  expect(updates).toEqual(["s1"]);
  expect([connection.state.value, connection.transport.value]).toEqual(["online", "websocket"]);
});

test("an open connection is not closed by the opening timeout", async () => {
  start();
  const socket = await socketNumber(1);
  await socket.welcome();
  await vi.advanceTimersByTimeAsync(24_000);
  expect(socket.readyState).toBe(1);
});

test("after a break updates continue from the last token", async () => {
  const connection = start();
  const first = await socketNumber(1);
  await first.welcome();
  first.says({ next_batch: "s1" });
  first.says({ next_batch: "s2" });
  first.close(1001);
  await vi.waitFor(() => expect(connection.state.value).toBe("offline"));
  const second = await socketNumber(2);
  expect(second.url.searchParams.get("since")).toBe("s2");
  await second.welcome();
  second.says({ next_batch: "s3" });
  expect(updates).toEqual(["s1", "s2", "s3"]);
  expect(connection.state.value).toBe("online");
});

test("after two failed sockets /sync is used for a while", async () => {
  let answered = 0;
  const connection = start(async (url, signal) => (++answered <= 2 ? { next_batch: `s${answered}` } : neverAnswer(url, signal)));
  (await socketNumber(1)).close(1006);
  (await socketNumber(2)).close(1006);
  await vi.waitFor(() => expect(updates).toEqual(["s1", "s2"]));
  expect([connection.state.value, connection.transport.value]).toEqual(["online", "sync"]);
  expect(syncs.map((url) => [url.searchParams.get("since"), url.searchParams.get("timeout")])).toEqual([
    [null, "0"],
    ["s1", "30000"],
    ["s2", "30000"],
  ]);
  expect(connection.canRequest).toBe(false);
  expect(sockets).toHaveLength(2);
});

test("after a server outage sockets are tried first again", async () => {
  let isAway = true;
  start(async (url, signal) => {
    if (isAway) throw new TypeError("away");
    return neverAnswer(url, signal);
  });
  (await socketNumber(1)).close(1006);
  (await socketNumber(2)).close(1006);
  const third = await socketNumber(3);
  isAway = false;
  await third.welcome();
  third.says({ next_batch: "s1" });
  expect(updates).toEqual(["s1"]);
});

test("code 4401 ends the session", async () => {
  const lost = vi.fn();
  start(neverAnswer, lost);
  const socket = await socketNumber(1);
  await socket.welcome();
  socket.close(4401);
  await vi.waitFor(() => expect(lost).toHaveBeenCalledOnce());
  await vi.advanceTimersByTimeAsync(60_000);
  expect(sockets).toHaveLength(1);
});

test("a token that is refused on connecting ends the session", async () => {
  const lost = vi.fn();
  start(neverAnswer, lost);
  const socket = await socketNumber(1);
  socket.open();
  await vi.waitFor(() => expect(socket.sent).toHaveLength(1));
  socket.close(4401);
  await vi.waitFor(() => expect(lost).toHaveBeenCalledOnce());
});

test("a request gets its own response, or an error when the connection breaks", async () => {
  const connection = start();
  const socket = await socketNumber(1);
  await socket.welcome();
  const one = connection.request("send", {}, "a");
  const two = connection.request("send", {}, "b");
  const three = connection.request("send", {}, "c");
  const broken = expect(three).rejects.toThrow("The connection was lost.");
  socket.says({ id: "b", error: { errcode: "M_FORBIDDEN", error: "no" } });
  socket.says({ id: "a", result: { event_id: "$1" } });
  expect(await one).toEqual({ event_id: "$1" });
  await expect(two).rejects.toMatchObject({ errcode: "M_FORBIDDEN" });
  socket.close(1011);
  await broken;
});

test("a connection whose server does not answer is closed", async () => {
  const connection = start();
  const socket = await socketNumber(1);
  await socket.welcome();
  await vi.advanceTimersByTimeAsync(25_000);
  expect(socket.sent.at(-1)?.method).toBe("ping");
  await vi.advanceTimersByTimeAsync(15_000);
  await vi.waitFor(() => expect(connection.state.value).toBe("offline"));
  await socketNumber(2);
});

test("to-device messages are acknowledged once they are received", async () => {
  start();
  const socket = await socketNumber(1);
  await socket.welcome();
  socket.says({ next_batch: "s1", to_device: { events: [{}] } });
  expect(socket.sent.at(-1)).toMatchObject({ method: "ack", params: { since: "s1" } });
});
