import { afterAll, beforeAll, expect, test } from "vitest";
import { testEnvironment } from "./harness.ts";
import { Recipient, type ShownNotification } from "./pushRecipient.ts";
import { verifyVapid } from "./pushService.ts";
import { createRoom, messagesWith, type TestRoom } from "./roomHelpers.ts";

const env = testEnvironment({ PARLOUR__PUSH__ALLOW_PRIVATE_ADDRESSES: "true" });
const DAY_SECONDS = 24 * 3_600;

const recipients: Recipient[] = [];
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
  for (const { push } of recipients) await push.stop();
});

async function signUp(name: string): Promise<Recipient> {
  const recipient = await Recipient.signUp(env, name);
  recipients.push(recipient);
  return recipient;
}

async function roomWithBob(recipient: Recipient, options: Record<string, unknown> = {}): Promise<TestRoom> {
  return createRoom(env, [bobToken, recipient.token], options);
}

test("the server's messages are encrypted and signed as the standards say", async () => {
  const ann = await signUp("ann");
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
  const cara = await signUp("cara");
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
  const cleo = await signUp("cleo");
  const [first, second] = [await roomWithBob(cleo, { name: "First" }), await roomWithBob(cleo, { name: "Second" })];
  await cleo.turnOn();
  await cleo.closePage();
  for (const room of [first, second]) {
    await room.send(bobToken, "Hello");
    await cleo.receiveShown();
  }
  await first.open(cleo.user);
  await expect.poll(async () => cleo.notifications()).toMatchObject([{ title: "Second" }]);
});

test("the notifications say as much as the user has chosen", async () => {
  const dan = await signUp("dan");
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
  const eve = await signUp("eve");
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
  const finn = await signUp("finn");
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
  const gus = await signUp("gus");
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

test("turning notifications on applies to all tabs", async () => {
  const lee = await signUp("lee");
  const otherTab = await lee.user.context.newPage();
  await otherTab.goto("/#/settings/notifications");
  await otherTab.getByRole("checkbox", { name: "Notify me when this page is closed" }).waitFor();
  await lee.turnOn();
  await otherTab.getByText("This browser receives notifications.").waitFor();
});

test("a subscription that the browser has ended is made again", async () => {
  const leo = await signUp("leo");
  await leo.turnOn();
  await leo.endSubscription();
  await expect.poll(async () => leo.isSubscribed()).toBe(true);
});

test("turning notifications off or signing out removes the pusher", async () => {
  const hana = await signUp("hana");
  await hana.turnOn();
  expect(await hana.isSubscribed()).toBe(true);
  await hana.checkbox.uncheck();
  await expect.poll(async () => hana.pushers()).toEqual([]);
  expect(await hana.isSubscribed()).toBe(false);

  await hana.turnOn();
  await hana.user.page.getByRole("button", { name: "hana account" }).click();
  await hana.user.page.getByRole("menuitem", { name: "Sign out" }).click();
  await hana.user.page.getByRole("button", { name: "Sign out" }).click();
  await hana.user.page.getByRole("heading", { name: "Sign in" }).waitFor();
  await expect.poll(async () => hana.isSubscribed()).toBe(false);
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
