import type { CDPSession, Worker } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";
import { type PushContent, PushService, verifyVapid } from "./pushService.ts";
import { createRoom, messagesWith, type TestRoom } from "./roomHelpers.ts";

const env = testEnvironment({ PARLOUR__PUSH__ALLOW_PRIVATE_ADDRESSES: "true" });
const DAY_SECONDS = 24 * 3_600;

const pushServices: PushService[] = [];
let bobToken: string;
let serverKey: string;

beforeAll(async () => {
  bobToken = (await env.registerAccount("bob")).access_token;
  const { capabilities } = await env.request(bobToken, "GET", "/_matrix/client/v3/capabilities");
  const capability = (capabilities as Record<string, unknown>)["org.matrix.msc4174.webpush"];
  expect(capability).toMatchObject({ enabled: true });
  serverKey = (capability as { vapid: string }).vapid;
});

afterAll(async () => {
  for (const push of pushServices) await push.stop();
});

interface ShownNotification {
  title: string;
  body: string;
  tag: string;
}

/** A user whose browser has a push service of its own. */
class Recipient {
  private session: CDPSession | undefined;
  private registrationId = "";

  private constructor(
    readonly user: TestUser,
    readonly token: string,
    readonly push: PushService,
  ) {}

  static async signUp(name: string): Promise<Recipient> {
    const push = new PushService();
    await push.start();
    pushServices.push(push);
    const user = await env.signUp(name, { permissions: ["notifications"] });
    await push.replaceIn(user.context);
    await user.page.reload();
    return new Recipient(user, await env.accessTokenOf(user), push);
  }

  async openSettings(): Promise<void> {
    await this.user.page.goto("/#/settings/notifications");
    await this.user.page.getByRole("tabpanel", { name: "Notifications" }).waitFor();
  }

  get checkbox() {
    return this.user.page.getByRole("checkbox", { name: "Notify me when this page is closed" });
  }

  /** Turns the setting on, and delivers the first message of the server. */
  async turnOn(): Promise<PushContent> {
    await this.openSettings();
    await this.checkbox.check();
    return this.activate();
  }

  async activate(): Promise<PushContent> {
    const { content } = await this.push.nextPush();
    await this.deliver(content);
    await this.user.page.getByText("This browser receives notifications.").waitFor();
    return content;
  }

  async chooseDetail(detail: "nothing" | "sender" | "text"): Promise<void> {
    await this.user.page.getByLabel("What these notifications say").selectOption(detail);
    const isSet = ({ data }: Pusher) => data.default_payload.notification_detail === detail;
    await expect.poll(async () => (await this.pushers()).every(isSet)).toBe(true);
  }

  /** Opens another file of the server instead of the page. */
  async closePage(): Promise<void> {
    await this.user.page.goto("/assets/icon.svg");
  }

  /** Receives the server's next message at the push service, and delivers it to the service worker. */
  async receive(): Promise<PushContent> {
    const { content } = await this.push.nextPush();
    await this.deliver(content);
    return content;
  }

  /** Receives the server's next message, and waits until the service worker has shown a notification. */
  async receiveShown(): Promise<PushContent> {
    const worker = await this.worker();
    const before = await worker.evaluate(countShownNotifications);
    const content = await this.receive();
    // Chromium forgets a notification if the list of them is read while it is being shown.
    await expect.poll(async () => worker.evaluate(countShownNotifications), { timeout: 10_000 }).toBe(before + 1);
    return content;
  }

  async deliver(content: PushContent): Promise<void> {
    const session = await this.workerSession();
    await session.send("ServiceWorker.deliverPushMessage", {
      origin: env.server.url,
      registrationId: this.registrationId,
      data: JSON.stringify(content),
    });
  }

  async worker(): Promise<Worker> {
    const { context } = this.user;
    return context.serviceWorkers()[0] ?? context.waitForEvent("serviceworker");
  }

  async notifications(): Promise<ShownNotification[]> {
    return (await this.worker()).evaluate(async () => {
      const { registration } = globalThis as unknown as { registration: ServiceWorkerRegistration };
      return (await registration.getNotifications()).map(({ title, body, tag }) => ({ title, body, tag }));
    });
  }

  /**
   * Clicks the only notification. Chromium opens and focuses windows only after a real click, so the worker's functions for
   * that are replaced. Returns the address that the worker wanted to open.
   */
  async clickNotification(): Promise<string | null> {
    return (await this.worker()).evaluate(async () => {
      const worker = globalThis as unknown as ClickedWorker;
      let opened: string | null = null;
      worker.clients.openWindow = async (url) => {
        opened = url;
      };
      worker.WindowClient.prototype.focus = async () => {};
      const [notification] = await worker.registration.getNotifications();
      const click = new worker.NotificationEvent("notificationclick", { notification });
      const handled: Promise<unknown>[] = [];
      click.waitUntil = (work) => void handled.push(work);
      worker.dispatchEvent(click);
      await Promise.all(handled);
      return opened;
    });
  }

  async pushers(): Promise<Pusher[]> {
    return (await env.request(this.token, "GET", "/_matrix/client/v3/pushers"))["pushers"] as Pusher[];
  }

  private async workerSession(): Promise<CDPSession> {
    if (this.session !== undefined) return this.session;
    this.session = await this.user.context.newCDPSession(this.user.page);
    const registered = new Promise<string>((resolve) => {
      this.session!.on("ServiceWorker.workerRegistrationUpdated", ({ registrations }) => {
        if (registrations[0] !== undefined) resolve(registrations[0].registrationId);
      });
    });
    await this.session.send("ServiceWorker.enable");
    this.registrationId = await registered;
    return this.session;
  }
}

interface Pusher {
  app_id: string;
  data: { activated: boolean; default_payload: { notification_detail: string } };
}

interface ClickEvent extends Event {
  waitUntil: (work: Promise<unknown>) => void;
}

interface ClickedWorker extends EventTarget {
  registration: ServiceWorkerRegistration;
  clients: { openWindow: (url: string) => Promise<void> };
  WindowClient: { prototype: { focus: () => Promise<void> } };
  NotificationEvent: new (type: string, options: { notification: Notification | undefined }) => ClickEvent;
}

/** Runs in the service worker. Returns how many notifications it has shown since the first call. */
function countShownNotifications(): number {
  const worker = globalThis as unknown as { registration: ServiceWorkerRegistration; shownCount?: number };
  if (worker.shownCount === undefined) {
    worker.shownCount = 0;
    const show = worker.registration.showNotification.bind(worker.registration);
    worker.registration.showNotification = async (title, options) => {
      await show(title, options);
      worker.shownCount! += 1;
    };
  }
  return worker.shownCount;
}

async function roomWithBob(recipient: Recipient, options: Record<string, unknown> = {}): Promise<TestRoom> {
  return createRoom(env, [bobToken, recipient.token], options);
}

test("the server's messages are encrypted and signed as the standards say", async () => {
  const ann = await Recipient.signUp("ann");
  await ann.openSettings();
  await ann.checkbox.check();
  const { path, headers, content } = await ann.push.nextPush();
  expect(content).toEqual({ app_id: "org.parlour.page", ack_token: expect.any(String) });
  expect(path).toBe("/subscription");
  expect(headers).toMatchObject({ "content-encoding": "aes128gcm", ttl: expect.stringMatching(/^\d+$/) });
  expect(["very-low", "low", "normal", "high"]).toContain(headers["urgency"]);
  const { aud, exp } = verifyVapid(headers, serverKey);
  const now = Date.now() / 1_000;
  expect(aud).toBe(ann.push.origin);
  expect(exp).toBeGreaterThan(now);
  expect(exp).toBeLessThanOrEqual(now + DAY_SECONDS);
  // Until the first message is acknowledged, the server sends nothing else.
  expect(await ann.pushers()).toMatchObject([{ app_id: "org.parlour.page", data: { activated: false } }]);
});

test("a message is shown while the page is closed, and a click opens it", async () => {
  const cara = await Recipient.signUp("cara");
  const room = await roomWithBob(cara);
  await cara.turnOn();
  expect(await cara.pushers()).toMatchObject([{ data: { activated: true } }]);
  await cara.closePage();
  const eventId = await room.send(bobToken, "The beans are up");
  const received = await cara.receiveShown();
  expect(received).toMatchObject({ event_id: eventId, room_id: room.id, type: "m.room.message", sender: "@bob:localhost", room_name: "The room" });
  expect(await cara.notifications()).toEqual([{ title: "The room", body: "bob: The beans are up", tag: room.id }]);
  await room.send(bobToken, "And the peas");
  await cara.receiveShown();
  expect(await cara.notifications()).toEqual([{ title: "The room", body: "bob: And the peas", tag: room.id }]);

  const opened = await cara.clickNotification();
  expect(opened).toContain(`/#/room/${encodeURIComponent(room.id)}`);
  expect(await cara.notifications()).toEqual([]);
  await cara.user.page.goto(opened!);
  await messagesWith(cara.user.page, "And the peas").waitFor();
  expect(cara.user.consoleErrors).toEqual([]);
});

test("reading a room closes its notification", async () => {
  const cleo = await Recipient.signUp("cleo");
  const [first, second] = [await roomWithBob(cleo, { name: "First" }), await roomWithBob(cleo, { name: "Second" })];
  await cleo.turnOn();
  await cleo.closePage();
  for (const room of [first, second]) {
    await room.send(bobToken, "Hello");
    await cleo.receiveShown();
  }
  await first.open(cleo.user);
  await expect.poll(async () => cleo.notifications(), { timeout: 10_000 }).toMatchObject([{ title: "Second" }]);
});

test("the notifications say as much as the user has chosen", async () => {
  const dan = await Recipient.signUp("dan");
  const room = await roomWithBob(dan);
  await dan.turnOn();
  const bodyOfNext = async (text: string) => {
    await dan.closePage();
    await room.send(bobToken, text);
    const content = await dan.receiveShown();
    const [{ title, body }] = (await dan.notifications()) as [ShownNotification];
    await dan.clickNotification();
    await dan.openSettings();
    return { content, shown: [title, body] };
  };
  await dan.chooseDetail("sender");
  expect((await bodyOfNext("One")).shown).toEqual(["The room", "New message from bob"]);
  await dan.chooseDetail("nothing");
  const { content, shown } = await bodyOfNext("Two");
  expect(shown).toEqual(["New message", ""]);
  expect(content).not.toHaveProperty("sender");
  expect(content).not.toHaveProperty("content");
  await dan.chooseDetail("text");
  expect((await bodyOfNext("Three")).shown).toEqual(["The room", "bob: Three"]);
});

test("invitations and encrypted messages are described", async () => {
  const eve = await Recipient.signUp("eve");
  const room = await roomWithBob(eve);
  await eve.turnOn();
  await eve.closePage();
  await room.send(bobToken, { algorithm: "m.megolm.v1.aes-sha2", ciphertext: "AwgAEn", session_id: "s", sender_key: "k", device_id: "d" }, "m.room.encrypted");
  await eve.receiveShown();
  expect(await eve.notifications()).toEqual([{ title: "The room", body: "bob: Encrypted message", tag: room.id }]);
  await eve.clickNotification();
  const party = { name: "Party", invite: [eve.user.userId] };
  const { room_id } = await env.request(bobToken, "POST", "/_matrix/client/v3/createRoom", party);
  await eve.receiveShown();
  expect(await eve.notifications()).toEqual([{ title: "Party", body: "bob invited you to this room", tag: room_id }]);
});

test("a visible page shows notifications itself, and a hidden one leaves them to the worker", async () => {
  const finn = await Recipient.signUp("finn");
  // Headless Chromium shows all tabs, so the page and the worker are told otherwise.
  await finn.user.page.addInitScript(() => {
    const shown: string[] = [];
    class Shown extends EventTarget {
      static permission = "granted";
      static requestPermission = async () => "granted";
      constructor(title: string) {
        super();
        shown.push(title);
      }
      close() {}
    }
    Object.assign(window, { Notification: Shown, shown });
  });
  await finn.user.page.reload();
  const shownByPage = async () => finn.user.page.evaluate(() => (window as unknown as { shown: string[] }).shown);
  const [first, second] = [await roomWithBob(finn, { name: "First" }), await roomWithBob(finn, { name: "Second" })];
  await finn.turnOn();
  await first.send(bobToken, "While visible");
  await finn.receive();
  await expect.poll(shownByPage).toEqual(["First"]);

  await finn.user.page.evaluate(() => Object.defineProperty(document, "visibilityState", { value: "hidden" }));
  await (await finn.worker()).evaluate(() => {
    const { prototype } = (globalThis as unknown as { WindowClient: { prototype: object } }).WindowClient;
    Object.defineProperty(prototype, "visibilityState", { value: "hidden" });
  });
  await second.send(bobToken, "While hidden");
  await finn.receiveShown();
  expect(await finn.notifications()).toEqual([{ title: "Second", body: "bob: While hidden", tag: second.id }]);
  await finn.user.page.getByRole("link", { name: /Second.*While hidden/ }).waitFor();
  expect(await shownByPage()).toEqual(["First"]);

  // A click shows the room in the open tab.
  expect(await finn.clickNotification()).toBe(null);
  await finn.user.page.getByRole("heading", { name: "Second" }).waitFor();
});

test("a pusher whose first message was lost is set again when the page is opened", async () => {
  const gus = await Recipient.signUp("gus");
  await gus.openSettings();
  await gus.checkbox.check();
  await gus.push.nextPush();
  await gus.user.page.getByText("Waiting for the server's first message").waitFor();
  await gus.user.page.reload();
  await gus.activate();
  expect(await gus.pushers()).toMatchObject([{ data: { activated: true } }]);

  const changes: string[] = [];
  gus.user.page.on("request", (request) => {
    if (request.url().endsWith("/pushers/set")) changes.push(request.url());
  });
  await gus.user.page.reload();
  await gus.user.page.getByText("This browser receives notifications.").waitFor();
  expect([changes, gus.push.unreadCount]).toEqual([[], 0]);
});

test("turning notifications off or signing out removes the pusher", async () => {
  const hana = await Recipient.signUp("hana");
  const isSubscribed = async () => hana.user.page.evaluate(async () => (await (await navigator.serviceWorker.ready).pushManager.getSubscription()) !== null);
  await hana.turnOn();
  expect(await isSubscribed()).toBe(true);
  await hana.checkbox.uncheck();
  await expect.poll(async () => hana.pushers()).toEqual([]);
  expect(await isSubscribed()).toBe(false);

  await hana.turnOn();
  await hana.user.page.getByRole("button", { name: "hana account" }).click();
  await hana.user.page.getByRole("menuitem", { name: "Sign out" }).click();
  await hana.user.page.getByRole("button", { name: "Sign out" }).click();
  await hana.user.page.getByRole("heading", { name: "Sign in" }).waitFor();
  await expect.poll(isSubscribed).toBe(false);
});

test("the settings say why notifications are not possible", async () => {
  const ida = await env.signUp("ida");
  const checkbox = ida.page.getByRole("checkbox", { name: "Notify me when this page is closed" });
  await ida.page.goto("/#/settings/notifications");
  // Headless Chromium refuses each request for the permission.
  await checkbox.click();
  await ida.page.getByText("This browser does not let the page show notifications.").waitFor();
  expect([await checkbox.isChecked(), await checkbox.isDisabled()]).toEqual([false, true]);

  await ida.page.route("**/capabilities", async (route) => route.fulfill({ json: { capabilities: {} } }));
  const answered = ida.page.waitForResponse("**/capabilities");
  await ida.page.reload();
  await answered;
  await ida.page.getByRole("checkbox", { name: "Show notifications" }).waitFor();
  expect(await checkbox.count()).toBe(0);
});
