// Takes screenshots of the main screens, in light, dark and phone versions, for people to look at and for the README.
// They are saved in target/screenshots, or in the folder that SCREENSHOTS names.

import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";
import { createRoom, messageLog, type TestRoom } from "./roomHelpers.ts";

const env = testEnvironment();
const SCREENSHOT_FOLDER = process.env["SCREENSHOTS"] ?? resolve(import.meta.dirname, "../../target/screenshots");

interface Scene {
  alice: TestUser;
  room: TestRoom;
}

let prepared: Promise<Scene> | null = null;

/** Returns a room in the middle of a conversation. It is prepared once. */
async function scene(): Promise<Scene> {
  prepared ??= prepareScene();
  return prepared;
}

async function prepareScene(): Promise<Scene> {
  await mkdir(SCREENSHOT_FOLDER, { recursive: true });
  const alice = await env.signUp("alice");
  const token = await env.accessTokenOf(alice);
  const [bruno, chloe, dalia] = await Promise.all(["bruno", "chloe", "dalia"].map(async (name) => env.registerAccount(name)));
  const people = [
    { token, id: alice.userId, name: "Alice Okafor", hue: 330 },
    { token: bruno!.access_token, id: bruno!.user_id, name: "Bruno Santos", hue: 25 },
    { token: chloe!.access_token, id: chloe!.user_id, name: "Chloé Lefèvre", hue: 200 },
    { token: dalia!.access_token, id: dalia!.user_id, name: "داليا منصور", hue: 150 },
  ];
  for (const person of people) {
    const profile = `/_matrix/client/v3/profile/${encodeURIComponent(person.id)}`;
    await env.request(person.token, "PUT", `${profile}/displayname`, { displayname: person.name });
    if (person.hue !== 150) {
      const picture = await uploadPicture(alice, person.token, person.hue, 160, 160);
      await env.request(person.token, "PUT", `${profile}/avatar_url`, { avatar_url: picture });
    }
  }
  const [b, c, d] = people.slice(1).map((person) => person.token) as [string, string, string];
  for (const [name, topic] of OTHER_ROOMS) {
    const other = await createRoom(env, [token, b, c], { name, topic });
    await other.send(name.startsWith("Book") ? c : b, topic);
  }
  const chat = await createRoom(env, [c, token], { name: undefined, preset: "trusted_private_chat", is_direct: true, invite: [alice.userId] }).catch(
    () => null,
  );
  if (chat !== null) {
    await chat.send(c, "Are you coming on Thursday?");
    await env.request(token, "PUT", `/_matrix/client/v3/user/${encodeURIComponent(alice.userId)}/account_data/m.direct`, { [chloe!.user_id]: [chat.id] });
  }
  await env.request(b, "POST", "/_matrix/client/v3/createRoom", { name: "Surprise for Chloé", invite: [alice.userId] });
  const room = await createRoom(env, [token, b, c, d], {
    name: "Garden club",
    topic: "Seeds, tools, and who brings the cake",
    room_alias_name: "garden",
    visibility: "public",
  });
  await fillConversation(room, alice, [token, b, c, d]);
  // Two of them are online.
  for (const present of [b, d]) await env.request(present, "GET", "/_matrix/client/v3/sync?timeout=0");
  await alice.page.reload();
  return { alice, room };
}

const OTHER_ROOMS: [string, string][] = [
  ["Release planning", "What goes into the next one, and what does not"],
  ["Book club", "This month: a very long novel with a very long title that nobody has finished yet"],
  ["קבוצת הטיולים", "מסלולים, מפות ותמונות"],
  ["Lunch", "Today: soup"],
];

async function fillConversation(room: TestRoom, alice: TestUser, [a, b, c, d]: string[]): Promise<void> {
  await room.send(b!, "Good morning! The first tomatoes are up 🌱");
  const picture = await uploadPicture(alice, b!, 120, 960, 600);
  await room.send(b!, { msgtype: "m.image", body: "greenhouse.png", url: picture, info: { w: 960, h: 600, mimetype: "image/png" } });
  const question = await room.send(c!, "They look great. Does anybody still have string for the beans?");
  await room.send(a!, { msgtype: "m.text", body: "Two rolls in the shed, second shelf.", "m.relates_to": { "m.in_reply_to": { event_id: question } } });
  const thanks = await room.send(d!, "شكراً جزيلاً! سأحضرها غداً صباحاً");
  await room.send(b!, { "m.relates_to": { rel_type: "m.annotation", event_id: thanks, key: "🎉" } }, "m.reaction");
  await room.send(c!, { "m.relates_to": { rel_type: "m.annotation", event_id: thanks, key: "🎉" } }, "m.reaction");
  await room.send(a!, { "m.relates_to": { rel_type: "m.annotation", event_id: thanks, key: "❤️" } }, "m.reaction");
  const plan = await room.send(a!, {
    msgtype: "m.text",
    body: "Plan for Saturday:\n\n1. dig over the back bed\n2. plant the beans\n3. cake",
    format: "org.matrix.custom.html",
    formatted_body: "<p>Plan for <strong>Saturday</strong>:</p><ol><li>dig over the back bed</li><li>plant the beans</li><li>cake</li></ol>",
  });
  await room.send(b!, { msgtype: "m.text", body: "I can bring the big spade", "m.relates_to": { rel_type: "m.thread", event_id: plan } });
  await room.send(c!, { msgtype: "m.text", body: "Lemon or chocolate?", "m.relates_to": { rel_type: "m.thread", event_id: plan } });
  await room.send(c!, "See you there 👋");
  const last = await room.send(a!, "I have put it into the calendar.");
  await room.sendReceipt(b!, last);
  await env.request(b!, "PUT", `${room.path}/typing/${encodeURIComponent("@bruno:localhost")}`, { typing: true, timeout: 30_000 });
}

/** Uploads a picture that is drawn in the browser, as this user. */
async function uploadPicture(painter: TestUser, token: string, hue: number, width: number, height: number): Promise<string> {
  const painted = await painter.page.evaluate(
    async ([hue, width, height]) => {
      const canvas = new OffscreenCanvas(width, height);
      const brush = canvas.getContext("2d")!;
      const sky = brush.createLinearGradient(0, 0, 0, height);
      sky.addColorStop(0, `hsl(${hue} 60% 78%)`);
      sky.addColorStop(1, `hsl(${hue + 40} 55% 52%)`);
      brush.fillStyle = sky;
      brush.fillRect(0, 0, width, height);
      for (let hill = 0; hill < 4; hill++) {
        brush.fillStyle = `hsl(${hue + hill * 14} 42% ${48 - hill * 9}%)`;
        brush.beginPath();
        brush.ellipse(width * (0.1 + hill * 0.3), height * (1.05 + hill * 0.04), width * 0.42, height * (0.55 - hill * 0.07), 0, 0, 2 * Math.PI);
        brush.fill();
      }
      const blob = await canvas.convertToBlob({ type: "image/png" });
      return [...new Uint8Array(await blob.arrayBuffer())];
    },
    [hue, width, height] as const,
  );
  const response = await fetch(`${env.server.url}/_matrix/media/v3/upload`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "image/png" },
    body: new Uint8Array(painted),
  });
  return ((await response.json()) as { content_uri: string }).content_uri;
}

async function takeScreenshot(page: Page, name: string): Promise<void> {
  // Pictures load after the page is drawn.
  await page.waitForLoadState("networkidle").catch(() => {});
  await page.screenshot({ path: join(SCREENSHOT_FOLDER, `${name}.png`), animations: "disabled" });
}

async function openPage(page: Page, hash: string): Promise<void> {
  await page.goto(`/${hash}`);
  await page.getByRole("main").waitFor();
}

for (const scheme of ["light", "dark"] as const) {
  test(`the screens in ${scheme} colours`, async () => {
    const { alice, room } = await scene();
    const { page } = alice;
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width: 1280, height: 832 });
    await room.open(alice);
    await messageLog(page).getByText("I have put it into the calendar.").waitFor();
    await messageLog(page).getByRole("img", { name: "greenhouse.png" }).waitFor();
    await takeScreenshot(page, `room-${scheme}`);
    await page.getByRole("button", { name: "Details" }).click();
    await page.getByRole("complementary").first().waitFor();
    await takeScreenshot(page, `details-${scheme}`);
    await page.keyboard.press("Escape");
    for (const at of ["people", "explore", "settings/profile", "settings/devices"]) {
      await openPage(page, `#/${at}`);
      await takeScreenshot(page, `${at.replace("/", "-")}-${scheme}`);
    }
    const stranger = await env.openBrowser({ colorScheme: scheme });
    await stranger.page.goto("/");
    await stranger.page.getByRole("heading", { level: 1 }).first().waitFor();
    await takeScreenshot(stranger.page, `welcome-${scheme}`);
    expect(alice.consoleErrors).toEqual([]);
  });
}

test("the screens on a phone", async () => {
  const { alice, room } = await scene();
  const { page } = alice;
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.goto("/#/");
  await page.getByText("Garden club").first().waitFor();
  await takeScreenshot(page, "list-phone");
  await room.open(alice);
  await messageLog(page).getByText("I have put it into the calendar.").waitFor();
  await takeScreenshot(page, "room-phone");
  await openPage(page, "#/people");
  await page.getByRole("main").getByText("Chloé Lefèvre").waitFor();
  await takeScreenshot(page, "people-phone");
  expect(alice.consoleErrors).toEqual([]);
});
