import type { WebSocketRoute } from "playwright-core";
import { beforeAll, expect, test } from "vitest";
import { type Person, world } from "./harness.ts";
import { field, log, message, roomOf, type TestRoom, write } from "./roomHelpers.ts";

const here = world();
let alice: Person;
let bob: Person;
let tokens: { alice: string; bob: string };
let room: TestRoom;

beforeAll(async () => {
  alice = await here.person("alice");
  bob = await here.person("bob");
  tokens = { alice: await here.token(alice), bob: await here.token(bob) };
  room = await roomOf(here, [tokens.alice, tokens.bob]);
  await room.open(alice);
  await room.open(bob);
});

/** Pulls the plug of a browser, or puts it back. Chromium leaves WebSockets alone when it is offline, so they are cut. */
class Plug {
  private isOut = false;
  private readonly sockets = new Set<WebSocketRoute>();

  static async of(person: Person): Promise<Plug> {
    const plug = new Plug();
    await person.page.routeWebSocket(/stream/, (socket) => {
      if (plug.isOut) return void socket.close();
      socket.connectToServer();
      plug.sockets.add(socket);
    });
    return plug;
  }

  async pull(person: Person): Promise<void> {
    this.isOut = true;
    await person.context.setOffline(true);
    for (const socket of this.sockets) await socket.close();
    this.sockets.clear();
  }

  async putBack(person: Person): Promise<void> {
    this.isOut = false;
    await person.context.setOffline(false);
  }
}

/** How often each of these stands in a page. */
async function counts(person: Person, texts: string[]): Promise<number[]> {
  return Promise.all(texts.map(async (text) => log(person.page).getByText(text, { exact: true }).count()));
}

test("what was said while one was offline is there afterwards, once, and in order", async () => {
  const plug = await Plug.of(alice);
  await alice.page.reload();
  await write(alice.page, "Before");
  await message(bob.page, "Before").waitFor();
  await plug.pull(alice);
  await alice.page.getByText("No connection").waitFor();
  const missed = Array.from({ length: 45 }, (_, number) => `Missed ${number}`);
  for (const text of missed) await room.says(tokens.bob, text);
  await write(alice.page, "Written offline");
  await message(alice.page, "Written offline").getByText("Not sent.").waitFor();

  await plug.putBack(alice);
  await message(alice.page, "Missed 44").waitFor({ timeout: 30_000 });
  await message(bob.page, "Written offline").waitFor();
  await message(alice.page, "Written offline")
    .getByRole("img", { name: /Sent|Read/ })
    .waitFor();
  const all = ["Before", ...missed, "Written offline"];
  expect(await counts(alice, all)).toEqual(all.map(() => 1));
  expect(await counts(bob, all)).toEqual(all.map(() => 1));
  const shown = await log(alice.page)
    .getByText(/^Missed \d+$/)
    .allInnerTexts();
  expect(shown).toEqual(missed);
});

test("a restart of the server is noticed, and nothing is lost by it", async () => {
  await here.server.restart();
  await write(alice.page, "After the restart");
  await message(bob.page, "After the restart").waitFor({ timeout: 45_000 });
  await write(bob.page, "I am here, too");
  await message(alice.page, "I am here, too").waitFor({ timeout: 45_000 });
  expect(await counts(alice, ["After the restart", "I am here, too"])).toEqual([1, 1]);
  expect(await counts(bob, ["After the restart", "I am here, too"])).toEqual([1, 1]);
});

test("without WebSockets everything works by /sync", async () => {
  const carol = await here.stranger();
  await carol.context.routeWebSocket(/stream/, (socket) => void socket.close());
  const { user_id, device_id, access_token } = await here.register("carol");
  await carol.context.addInitScript(
    (session) => localStorage.setItem("parlour.session", session),
    JSON.stringify({ userId: user_id, deviceId: device_id, accessToken: access_token }),
  );
  await here.api(access_token, "POST", `/_matrix/client/v3/join/${encodeURIComponent(room.id)}`, {});
  const synced = carol.page.waitForRequest((request) => request.url().includes("/_matrix/client/v3/sync"));
  await room.open(carol);
  await synced;

  await write(carol.page, "Without a socket");
  await message(bob.page, "Without a socket").waitFor();
  await write(bob.page, "I hear you");
  await message(carol.page, "I hear you").waitFor();
  await message(carol.page, "Without a socket")
    .getByRole("img", { name: /Read by/ })
    .waitFor();
  await field(bob.page).pressSequentially("x");
  await carol.page.getByText("bob is typing…").first().waitFor();
  expect(await counts(carol, ["Without a socket", "I hear you"])).toEqual([1, 1]);
});
