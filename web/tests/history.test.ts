import { beforeAll, expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";
import { createRoom, messageLog, messagesWith, type TestRoom } from "./roomHelpers.ts";

const MESSAGE_COUNT = 1_500;
const BATCH_SIZE = 25;

const env = testEnvironment();
let alice: TestUser;
let tokens: { alice: string; bob: string };
let room: TestRoom;

beforeAll(async () => {
  alice = await env.signUp("alice");
  tokens = { alice: await env.accessTokenOf(alice), bob: (await env.registerAccount("bob")).access_token };
  room = await createRoom(env, [tokens.alice, tokens.bob]);
  for (let begin = 0; begin < MESSAGE_COUNT; begin += BATCH_SIZE) {
    const numbers = Array.from({ length: BATCH_SIZE }, (_, at) => begin + at);
    await Promise.all(
      numbers.map(async (number) => room.send(number % 3 === 0 ? tokens.alice : tokens.bob, `Message ${number}. ${"and so on ".repeat(number % 17)}`)),
    );
  }
}, 180_000);

/** Returns how many rows are rendered. */
async function countRows(): Promise<number> {
  return messageLog(alice.page).locator("[data-key]").count();
}

test("scrolling back never jumps and keeps the page small", async () => {
  await room.open(alice);
  await messagesWith(alice.page, "Message 149").first().waitFor();
  const view = messageLog(alice.page).locator("xpath=..");

  // Each step scrolls up by a fixed distance and checks that the visible row moved by exactly that.
  let maxJump = 0;
  let maxRows = 0;
  let isAtBeginning = false;
  for (let step = 0; step < 400 && !isAtBeginning; step++) {
    const moved = await view.evaluate(async (element) => {
      const frame = async () => new Promise((resolve) => requestAnimationFrame(resolve));
      const inView = [...element.querySelectorAll<HTMLElement>("[data-key]")].find(
        (row) => row.getBoundingClientRect().top > element.getBoundingClientRect().top + 50,
      )!;
      const key = inView.dataset["key"]!;
      const before = inView.getBoundingClientRect().top;
      const scrolled = Math.min(600, element.scrollTop);
      element.scrollTop -= scrolled;
      for (let frames = 0; frames < 6; frames++) await frame();
      const after = element.querySelector(`[data-key="${CSS.escape(key)}"]`)?.getBoundingClientRect().top;
      return after === undefined ? null : Math.abs(after - before - scrolled);
    });
    expect(moved).not.toBeNull();
    maxJump = Math.max(maxJump, moved!);
    maxRows = Math.max(maxRows, await countRows());
    isAtBeginning = await alice.page.getByText("This is where it begins.").isVisible();
  }
  expect(isAtBeginning).toBe(true);
  expect(maxJump).toBeLessThan(2);
  expect(maxRows).toBeLessThanOrEqual(200);
  await messagesWith(alice.page, "Message 0.").waitFor();
});

test("a new message is counted while reading far above, and one jump shows it", async () => {
  await room.send(tokens.bob, "The newest of all");
  await alice.page.getByRole("button", { name: "Jump to 1 new message" }).click();
  await messagesWith(alice.page, "The newest of all").waitFor();
  expect(await countRows()).toBeLessThanOrEqual(200);
});

test("a link to an old message shows it and the messages after it", async () => {
  const found = await env.request(tokens.alice, "POST", "/_matrix/client/v3/search", {
    search_categories: { room_events: { search_term: "Message 300", keys: ["content.body"], filter: { rooms: [room.id] } } },
  });
  const results = (found["search_categories"] as { room_events: { results: { result: { event_id: string; content: { body: string } } }[] } }).room_events
    .results;
  const old = results.find(({ result }) => result.content.body.startsWith("Message 300."))!.result.event_id;
  await alice.page.goto("/#/");
  await alice.page.reload();
  await room.open(alice, old);
  const shown = messagesWith(alice.page, "Message 300.");
  await shown.waitFor();
  await expect.poll(async () => shown.evaluate((element) => element === document.activeElement)).toBe(true);

  const view = messageLog(alice.page).locator("xpath=..");
  await expect
    .poll(
      async () => {
        await view.evaluate((element) => element.scrollBy(0, 2_000));
        return messagesWith(alice.page, "The newest of all").isVisible();
      },
      { timeout: 45_000 },
    )
    .toBe(true);
  expect(await countRows()).toBeLessThanOrEqual(200);
  const jump = alice.page.getByRole("button", { name: /^Jump to/ });
  await expect
    .poll(async () => {
      await view.evaluate((element) => element.scrollBy(0, 2_000));
      return jump.count();
    })
    .toBe(0);
});

test("there were no console errors", () => {
  expect(alice.consoleErrors).toEqual([]);
});
