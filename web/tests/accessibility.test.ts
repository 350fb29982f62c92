import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { type Person, world } from "./harness.ts";

const here = world();

/** What axe finds wrong in what is shown, by the rules of WCAG 2.2 AA and its best practices. */
async function problemsOf(page: Page): Promise<string[]> {
  const source = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  // Evaluated, not added as a script: the Content-Security-Policy allows none.
  await page.evaluate(source);
  return page.evaluate(async () => {
    interface Axe {
      run(context: Document, options: unknown): Promise<{ violations: { id: string; nodes: { html: string; failureSummary?: string }[] }[] }>;
    }
    const { violations } = await (window as unknown as { axe: Axe }).axe.run(document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    });
    return violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)} ${failureSummary ?? ""}`));
  });
}

const THEMES = ["light", "dark"] as const;

async function looks(page: Page, screen: string): Promise<void> {
  await page.evaluate(async () =>
    Promise.all(
      document
        .getAnimations()
        .map(async (animation) => animation.finish !== undefined && animation.effect?.getComputedTiming().iterations !== Infinity && animation.finish()),
    ),
  );
  expect(await problemsOf(page), screen).toEqual([]);
}

test.for(THEMES)("the pages before the login, %s", async (colorScheme) => {
  const { page } = await here.stranger({ colorScheme });
  await page.goto("/");
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await looks(page, "sign in");
  await page.goto("/#/register");
  await page.getByRole("heading", { name: "Create an account" }).waitFor();
  await page.getByLabel("User name").fill("somebody");
  await page.getByText("is free").waitFor();
  await looks(page, "register");
  await page.goto("/#/invite/nosuchtoken");
  await page.getByRole("heading", { name: "This invitation is over" }).waitFor();
  await looks(page, "invitation that is over");
});

test.for(THEMES)("the list, people, and rooms to find, %s", async (colorScheme) => {
  const ann = await personWithRooms(`ann-${colorScheme}`, colorScheme);
  const { page } = ann;
  await page.getByRole("list", { name: "Rooms and chats" }).getByText("1 unread").waitFor();
  await page.getByRole("region", { name: /Invitations/ }).waitFor();
  await looks(page, "list");
  await page.getByRole("searchbox", { name: "Search rooms and people" }).fill("a");
  await page.getByRole("region", { name: "People" }).waitFor();
  await looks(page, "search");
  await page.getByRole("searchbox", { name: "Search rooms and people" }).fill("");
  await page.getByRole("button", { name: / account$/ }).click();
  await page.getByRole("menu").waitFor();
  await looks(page, "menu");
  await page.keyboard.press("Escape");
  await page.goto("/#/people");
  await page
    .getByRole("main")
    .getByRole("button", { name: /^friend/ })
    .first()
    .waitFor();
  await looks(page, "people");
  await page
    .getByRole("main")
    .getByRole("button", { name: /^Profile of friend/ })
    .first()
    .click();
  await page.getByRole("dialog", { name: "Profile" }).getByText("Rooms you share").waitFor();
  await looks(page, "profile card");
  await page.keyboard.press("Escape");
  await page.goto("/#/explore");
  await page.getByRole("list", { name: "Public rooms" }).waitFor();
  await looks(page, "explore");
  await page.getByRole("button", { name: "New room" }).click();
  await page.getByRole("radio", { name: /Public/ }).check();
  await looks(page, "new room");
  await page.keyboard.press("Escape");
  await page
    .getByRole("region", { name: /Invitations/ })
    .getByRole("link")
    .click();
  await page.getByRole("main").getByRole("button", { name: "Accept" }).waitFor();
  await looks(page, "invitation");
});

test.for(THEMES)("the details of a room, %s", async (colorScheme) => {
  const { page } = await personWithRooms(`bea-${colorScheme}`, colorScheme);
  await page
    .getByRole("list", { name: "Rooms and chats" })
    .getByRole("link", { name: /Garden/ })
    .click();
  await page.getByRole("button", { name: "Details", exact: true }).click();
  const panel = page.getByRole("complementary", { name: /^Details/ });
  await panel.waitFor();
  await looks(page, "about");
  await panel.getByRole("button", { name: "Edit room" }).click();
  await looks(page, "edit room");
  await page.keyboard.press("Escape");
  await panel.getByRole("button", { name: "Invite people" }).click();
  await page.getByRole("option").first().waitFor();
  await looks(page, "invite people");
  await page.getByRole("tab", { name: "Links" }).click();
  await page.getByRole("button", { name: "Create link" }).click();
  await page.getByRole("button", { name: /QR code/ }).click();
  await page.getByRole("img", { name: /QR code/ }).waitFor();
  await looks(page, "invite links");
  await page.keyboard.press("Escape");
  await panel.getByRole("tab", { name: "Members" }).click();
  await panel
    .getByRole("button", { name: /^Actions for/ })
    .first()
    .click();
  await looks(page, "members");
  await page.keyboard.press("Escape");
  await panel.getByRole("tab", { name: "Settings" }).click();
  await looks(page, "room settings");
  await panel.getByRole("button", { name: "Delete room" }).click();
  await looks(page, "delete room");
});

test.for(THEMES)("the settings, %s", async (colorScheme) => {
  const { page } = await here.person(`carl-${colorScheme}`, { colorScheme });
  for (const tab of ["Profile", "Account", "Devices", "Appearance", "Notifications", "Privacy", "About"]) {
    if (tab === "Profile") await page.goto("/#/settings/profile");
    await page.getByRole("tab", { name: tab }).click();
    await page.getByRole("tabpanel", { name: tab }).getByRole("heading").first().waitFor();
    await looks(page, tab);
  }
});

async function personWithRooms(name: string, colorScheme: "light" | "dark"): Promise<Person> {
  const friend = await here.register(`friend-${name}`);
  const person = await here.person(name, { colorScheme });
  const token = await here.token(person);
  const { room_id } = await here.api(token, "POST", "/_matrix/client/v3/createRoom", {
    name: "Garden",
    topic: "Seeds",
    preset: "public_chat",
    visibility: "public",
  });
  const room = encodeURIComponent(String(room_id));
  await here.api(friend.access_token, "POST", `/_matrix/client/v3/join/${room}`, {});
  await here.api(friend.access_token, "PUT", `/_matrix/client/v3/rooms/${room}/send/m.room.message/1`, { msgtype: "m.text", body: "Hello" });
  await here.api(friend.access_token, "POST", "/_matrix/client/v3/createRoom", { name: "Hike", invite: [person.userId] });
  return person;
}
