import { afterEach, expect, test, vi } from "vitest";
import type { Api } from "../server/api.ts";
import { asRecord, type Content } from "../server/events.ts";
import type { BrowserStorage } from "../session/session.ts";
import { apiAnswering, errorResponse } from "../testHelpers.ts";
import { type PushBrowser, type PushSubscriptionInfo, WebPush } from "./webPush.ts";

const ACTIVATION_TEXT = "first message has not arrived";

afterEach(() => void vi.useRealTimers());

class FakeStorage implements BrowserStorage {
  readonly items = new Map<string, string>();
  getItem = (key: string) => this.items.get(key) ?? null;
  setItem = (key: string, value: string) => void this.items.set(key, value);
  removeItem = (key: string) => void this.items.delete(key);
}

class FakeBrowser implements PushBrowser {
  unsupportedReason: string | null = null;
  granted: NotificationPermission = "granted";
  subscription: PushSubscriptionInfo | null = null;
  private count = 0;

  permission = () => this.granted;
  requestPermission = async () => this.granted;
  currentSubscription = async () => this.subscription;
  subscribe = async (serverKey: string) => {
    this.count += 1;
    this.subscription = { endpoint: `https://push.example/${this.count}`, p256dh: `key${this.count}`, auth: "secret", serverKey };
    return this.subscription;
  };
  unsubscribe = async () => {
    this.subscription = null;
  };
  closeNotifications = async () => {};
}

/** A server with pushers that become active when their token is acknowledged. */
class FakeServer {
  readonly pushers = new Map<string, Content>();
  serverKey: string | null = "server-key";
  setCount = 0;

  answer = ({ pathname }: URL, { method, body }: { method: string; body: unknown }): unknown => {
    const request = asRecord(body) ?? {};
    if (pathname.endsWith("/capabilities")) {
      return { capabilities: this.serverKey === null ? {} : { "org.matrix.msc4174.webpush": { enabled: true, vapid: this.serverKey } } };
    }
    if (pathname.endsWith("/devices/PHONE")) return { device_id: "PHONE", display_name: "Kitchen" };
    if (pathname.endsWith("/pushers/ack")) return this.activate(String(request["ack_token"]));
    if (method === "GET") return { pushers: [...this.pushers.values()] };
    this.setCount += 1;
    const pushkey = String(request["pushkey"]);
    if (request["kind"] === null) this.pushers.delete(pushkey);
    else this.pushers.set(pushkey, { ...request, data: { ...asRecord(request["data"]), activated: false } });
    return {};
  };

  /** The token of a pusher is its key here. */
  private activate(token: string): unknown {
    const pusher = this.pushers.get(token);
    if (pusher === undefined) return errorResponse(404, "M_NOT_FOUND");
    pusher["data"] = { ...asRecord(pusher["data"]), activated: true };
    return {};
  }
}

interface Setup {
  webPush: WebPush;
  server: FakeServer;
  browser: FakeBrowser;
  storage: FakeStorage;
  api: Api;
}

function setup(): Setup {
  const [server, browser, storage] = [new FakeServer(), new FakeBrowser(), new FakeStorage()];
  const api = apiAnswering(server.answer);
  return { webPush: new WebPush(api, "PHONE", storage, browser), server, browser, storage, api };
}

/** Returns a setup with active notifications, and the models of a page that is opened after that. */
async function setupTurnedOn(): Promise<Setup> {
  const before = setup();
  await before.webPush.turnOn("text");
  await before.webPush.acknowledge("org.parlour.page", "key1");
  return { ...before, webPush: new WebPush(before.api, "PHONE", before.storage, before.browser) };
}

test("turning notifications on subscribes and sets a pusher with the keys", async () => {
  const { webPush, server, browser } = setup();
  await webPush.turnOn("sender");
  expect(browser.subscription?.serverKey).toBe("server-key");
  expect(server.pushers.get("key1")).toMatchObject({
    kind: "org.matrix.msc4174.webpush",
    app_id: "org.parlour.page",
    device_display_name: "Kitchen",
    append: false,
    data: { url: "https://push.example/1", auth: "secret", default_payload: { notification_detail: "sender" } },
  });
  expect([webPush.detail.value, webPush.isActive.value, webPush.problem.value]).toEqual(["sender", false, null]);
  webPush.stop();
});

test("only ids are requested if the notifications say nothing", async () => {
  const { webPush, server } = setup();
  await webPush.turnOn("nothing");
  expect(server.pushers.get("key1")?.["data"]).toMatchObject({ format: "event_id_only" });
  await webPush.turnOn("text");
  expect(server.pushers.get("key1")?.["data"]).not.toHaveProperty("format");
  webPush.stop();
});

test("notifications are active once the token is acknowledged", async () => {
  const { webPush } = setup();
  await webPush.turnOn("text");
  await webPush.acknowledge("org.parlour.page", "key1");
  expect(webPush.isActive.value).toBe(true);
  // The worker sends the token to every tab, and the server accepts it once.
  await webPush.acknowledge("org.parlour.page", "used");
  expect([webPush.isActive.value, webPush.problem.value]).toEqual([true, null]);
});

test("the user is told if the server's first message does not arrive", async () => {
  vi.useFakeTimers();
  const { webPush } = setup();
  await webPush.turnOn("text");
  vi.advanceTimersByTime(29_000);
  expect(webPush.problem.value).toBe(null);
  vi.advanceTimersByTime(1_000);
  expect(webPush.problem.value).toContain(ACTIVATION_TEXT);
  await webPush.acknowledge("org.parlour.page", "key1");
  expect([webPush.isActive.value, webPush.problem.value]).toEqual([true, null]);
});

test("without the permission nothing is turned on", async () => {
  const { webPush, server, browser } = setup();
  browser.granted = "denied";
  await webPush.turnOn("text");
  expect(webPush.problem.value).toContain("does not let the page show notifications");
  expect([webPush.detail.value, browser.subscription, server.setCount]).toEqual([null, null, 0]);
});

test("notifications are no longer active when the permission is withdrawn", async () => {
  const { webPush, browser } = await setupTurnedOn();
  browser.granted = "denied";
  await webPush.resume();
  expect([webPush.detail.value, webPush.isActive.value]).toEqual(["text", false]);
  expect(webPush.problem.value).toContain("does not let the page show notifications");
  webPush.stop();
});

test("a server without the capability does not offer notifications", async () => {
  const { webPush, server } = setup();
  server.serverKey = null;
  await webPush.loadOffer();
  expect(webPush.isOffered.value).toBe(false);
  await webPush.turnOn("text");
  expect([webPush.detail.value, webPush.problem.value]).toEqual([null, "This server does not send notifications to closed pages."]);
});

test("a page that is opened again finds its active pusher and changes nothing", async () => {
  const { webPush, server } = await setupTurnedOn();
  await webPush.resume();
  expect([webPush.detail.value, webPush.isActive.value, server.setCount]).toEqual(["text", true, 1]);
});

test("a pusher that is not active or is missing is set again", async () => {
  const { webPush, server } = await setupTurnedOn();
  server.pushers.get("key1")!["data"] = { activated: false };
  await webPush.resume();
  expect([server.setCount, webPush.isActive.value]).toEqual([2, false]);
  server.pushers.clear();
  await webPush.resume();
  expect([server.setCount, server.pushers.has("key1")]).toEqual([3, true]);
  webPush.stop();
});

test("a new subscription replaces the pusher of the old one", async () => {
  const { webPush, server, browser } = await setupTurnedOn();
  browser.subscription = null;
  await webPush.resume();
  expect([...server.pushers.keys()]).toEqual(["key2"]);
  webPush.stop();
});

test("a subscription for the key of another server is replaced", async () => {
  const { webPush, server, browser } = await setupTurnedOn();
  server.serverKey = "new-server-key";
  await webPush.resume();
  expect(browser.subscription).toMatchObject({ endpoint: "https://push.example/2", serverKey: "new-server-key" });
  expect([...server.pushers.keys()]).toEqual(["key2"]);
  webPush.stop();
});

test("turning notifications off ends the subscription and removes the pusher", async () => {
  const { webPush, server, browser, storage } = await setupTurnedOn();
  await webPush.resume();
  await webPush.turnOff();
  expect([webPush.detail.value, webPush.isActive.value, browser.subscription]).toEqual([null, false, null]);
  expect([server.pushers.size, storage.items.size]).toEqual([0, 0]);
});

test("the setting of another session does not count", async () => {
  const { server, browser, storage, api } = await setupTurnedOn();
  const webPush = new WebPush(api, "TABLET", storage, browser);
  await webPush.resume();
  expect([webPush.detail.value, webPush.isActive.value, server.setCount]).toEqual([null, false, 1]);
});

test("another tab takes over the setting without a new pusher", async () => {
  const { webPush, server } = await setupTurnedOn();
  await webPush.reloadFromStorage();
  expect([webPush.detail.value, webPush.isActive.value, server.setCount]).toEqual(["text", true, 1]);
});
