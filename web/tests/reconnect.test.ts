import type { WebSocketRoute } from "playwright-core";
import { beforeAll, expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";
import { messageField, messageLog, messagesWith, openRoomOfTwo, type RoomOfTwo, typeMessage } from "./roomHelpers.ts";

const env = testEnvironment();
let { alice, bob, tokens, room } = {} as RoomOfTwo;

beforeAll(async () => {
  ({ alice, bob, tokens, room } = await openRoomOfTwo(env));
});

/** Disconnects a browser and reconnects it. Chromium keeps WebSockets open when it is offline, so they are closed. */
class NetworkPlug {
  private isOut = false;
  private readonly sockets = new Set<WebSocketRoute>();

  static async insertInto(person: TestUser): Promise<NetworkPlug> {
    const plug = new NetworkPlug();
    await person.page.routeWebSocket(/stream/, (socket) => {
      if (plug.isOut) return void socket.close();
      socket.connectToServer();
      plug.sockets.add(socket);
    });
    return plug;
  }

  async pull(person: TestUser): Promise<void> {
    this.isOut = true;
    await person.context.setOffline(true);
    for (const socket of this.sockets) await socket.close();
    this.sockets.clear();
  }

  async putBack(person: TestUser): Promise<void> {
    this.isOut = false;
    await person.context.setOffline(false);
  }
}

/** Returns how many times each text is in the message list. */
async function countTexts(person: TestUser, texts: string[]): Promise<number[]> {
  return Promise.all(texts.map(async (text) => messageLog(person.page).getByText(text, { exact: true }).count()));
}

test("messages missed while offline appear once and in order", async () => {
  const plug = await NetworkPlug.insertInto(alice);
  await alice.page.reload();
  await typeMessage(alice.page, "Before");
  await messagesWith(bob.page, "Before").waitFor();
  await plug.pull(alice);
  await alice.page.getByText("No connection").waitFor();
  const missed = Array.from({ length: 45 }, (_, number) => `Missed ${number}`);
  for (const text of missed) await room.send(tokens.bob, text);
  await typeMessage(alice.page, "Written offline");
  await messagesWith(alice.page, "Written offline").getByText("Not sent.").waitFor();

  await plug.putBack(alice);
  await messagesWith(alice.page, "Missed 44").waitFor({ timeout: 30_000 });
  await messagesWith(bob.page, "Written offline").waitFor();
  await messagesWith(alice.page, "Written offline")
    .getByRole("img", { name: /Sent|Read/ })
    .waitFor();
  const all = ["Before", ...missed, "Written offline"];
  expect(await countTexts(alice, all)).toEqual(all.map(() => 1));
  expect(await countTexts(bob, all)).toEqual(all.map(() => 1));
  const shown = await messageLog(alice.page)
    .getByText(/^Missed \d+$/)
    .allInnerTexts();
  expect(shown).toEqual(missed);
});

test("nothing is lost when the server restarts", async () => {
  await env.server.restart();
  await typeMessage(alice.page, "After the restart");
  await messagesWith(bob.page, "After the restart").waitFor({ timeout: 45_000 });
  await typeMessage(bob.page, "I am here, too");
  await messagesWith(alice.page, "I am here, too").waitFor({ timeout: 45_000 });
  expect(await countTexts(alice, ["After the restart", "I am here, too"])).toEqual([1, 1]);
  expect(await countTexts(bob, ["After the restart", "I am here, too"])).toEqual([1, 1]);
});

test("without WebSockets everything works by /sync", async () => {
  const carol = await env.openBrowser();
  await carol.context.routeWebSocket(/stream/, (socket) => void socket.close());
  const { user_id, device_id, access_token } = await env.registerAccount("carol");
  await carol.context.addInitScript(
    (session) => localStorage.setItem("parlour.session", session),
    JSON.stringify({ userId: user_id, deviceId: device_id, accessToken: access_token }),
  );
  await env.request(access_token, "POST", `/_matrix/client/v3/join/${encodeURIComponent(room.id)}`, {});
  const synced = carol.page.waitForRequest((request) => request.url().includes("/_matrix/client/v3/sync"));
  await room.open(carol);
  await synced;

  await typeMessage(carol.page, "Without a socket");
  await messagesWith(bob.page, "Without a socket").waitFor();
  await typeMessage(bob.page, "I hear you");
  await messagesWith(carol.page, "I hear you").waitFor();
  await messagesWith(carol.page, "Without a socket")
    .getByRole("img", { name: /Read by/ })
    .waitFor();
  await messageField(bob.page).pressSequentially("x");
  await carol.page.getByText("bob is typing…").first().waitFor();
  expect(await countTexts(carol, ["Without a socket", "I hear you"])).toEqual([1, 1]);
});
