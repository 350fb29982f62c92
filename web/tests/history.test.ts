import { beforeAll, expect, test } from "vitest";
import { type Person, world } from "./harness.ts";
import { log, message, roomOf, type TestRoom } from "./roomHelpers.ts";

const COUNT = 1_500;
const AT_ONCE = 25;

const here = world();
let alice: Person;
let tokens: { alice: string; bob: string };
let room: TestRoom;

beforeAll(async () => {
  alice = await here.person("alice");
  tokens = { alice: await here.token(alice), bob: (await here.register("bob")).access_token };
  room = await roomOf(here, [tokens.alice, tokens.bob]);
  for (let begin = 0; begin < COUNT; begin += AT_ONCE) {
    const numbers = Array.from({ length: AT_ONCE }, (_, at) => begin + at);
    await Promise.all(
      numbers.map(async (number) => room.says(number % 3 === 0 ? tokens.alice : tokens.bob, `Message ${number}. ${"and so on ".repeat(number % 17)}`)),
    );
  }
}, 180_000);

/** How many rows are in the page. */
async function rows(): Promise<number> {
  return log(alice.page).locator("[data-key]").count();
}

test("scrolling back through a long history never jumps, and keeps the page small", async () => {
  await room.open(alice);
  await message(alice.page, "Message 149").first().waitFor();
  const view = log(alice.page).locator("xpath=..");

  // Each step scrolls up by so much, and looks whether what was in view moved by exactly that.
  let worst = 0;
  let most = 0;
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
    worst = Math.max(worst, moved!);
    most = Math.max(most, await rows());
    isAtBeginning = await alice.page.getByText("This is where it begins.").isVisible();
  }
  expect(isAtBeginning).toBe(true);
  expect(worst).toBeLessThan(2);
  expect(most).toBeLessThanOrEqual(200);
  await message(alice.page, "Message 0.").waitFor();
});

test("a new message is counted from far away, and one jump leads back to it", async () => {
  await room.says(tokens.bob, "The newest of all");
  await alice.page.getByRole("button", { name: "Jump to 1 new message" }).click();
  await message(alice.page, "The newest of all").waitFor();
  expect(await rows()).toBeLessThanOrEqual(200);
});

test("a link to an old message shows it, and from there one scrolls to the newest", async () => {
  const found = await here.api(tokens.alice, "POST", "/_matrix/client/v3/search", {
    search_categories: { room_events: { search_term: "Message 300", keys: ["content.body"], filter: { rooms: [room.id] } } },
  });
  const results = (found["search_categories"] as { room_events: { results: { result: { event_id: string; content: { body: string } } }[] } }).room_events
    .results;
  const old = results.find(({ result }) => result.content.body.startsWith("Message 300."))!.result.event_id;
  await alice.page.goto("/#/");
  await alice.page.reload();
  await room.open(alice, old);
  const shown = message(alice.page, "Message 300.");
  await shown.waitFor();
  await expect.poll(async () => shown.evaluate((element) => element === document.activeElement)).toBe(true);

  const view = log(alice.page).locator("xpath=..");
  await expect
    .poll(
      async () => {
        await view.evaluate((element) => element.scrollBy(0, 2_000));
        return message(alice.page, "The newest of all").isVisible();
      },
      { timeout: 45_000 },
    )
    .toBe(true);
  expect(await rows()).toBeLessThanOrEqual(200);
  const jump = alice.page.getByRole("button", { name: /^Jump to/ });
  await expect
    .poll(async () => {
      await view.evaluate((element) => element.scrollBy(0, 2_000));
      return jump.count();
    })
    .toBe(0);
});

test("nothing went wrong in the console", () => {
  expect(alice.problems).toEqual([]);
});
