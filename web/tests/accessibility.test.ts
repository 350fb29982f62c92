import { test } from "vitest";
import { expectAccessible } from "./axe.ts";
import { type TestUser, testEnvironment } from "./harness.ts";

const env = testEnvironment();

const COLOR_SCHEMES = ["light", "dark"] as const;

test.for(COLOR_SCHEMES)("the pages before signing in, %s", async (colorScheme) => {
  const { page } = await env.openBrowser({ colorScheme });
  await page.goto("/");
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await expectAccessible(page, "sign in");
  await page.goto("/#/register");
  await page.getByRole("heading", { name: "Create an account" }).waitFor();
  await page.getByLabel("User name").fill("somebody");
  await page.getByText("is free").waitFor();
  await expectAccessible(page, "register");
  await page.goto("/#/invite/nosuchtoken");
  await page.getByRole("heading", { name: "This invitation is no longer valid" }).waitFor();
  await expectAccessible(page, "invitation that is over");
});

test.for(COLOR_SCHEMES)("the list, people, and public rooms, %s", async (colorScheme) => {
  const ann = await signUpWithRooms(`ann-${colorScheme}`, colorScheme);
  const { page } = ann;
  await page.getByRole("list", { name: "Rooms and chats" }).getByText("1 unread").waitFor();
  await page.getByRole("region", { name: /Invitations/ }).waitFor();
  await expectAccessible(page, "list");
  await page.getByRole("searchbox", { name: "Search rooms and people" }).fill("a");
  await page.getByRole("region", { name: "People" }).waitFor();
  await expectAccessible(page, "search");
  await page.getByRole("searchbox", { name: "Search rooms and people" }).fill("");
  await page.getByRole("button", { name: / account$/ }).click();
  await page.getByRole("menu").waitFor();
  await expectAccessible(page, "menu");
  await page.keyboard.press("Escape");
  await page.goto("/#/people");
  await page
    .getByRole("main")
    .getByRole("button", { name: /^friend/ })
    .first()
    .waitFor();
  await expectAccessible(page, "people");
  await page
    .getByRole("main")
    .getByRole("button", { name: /^Profile of friend/ })
    .first()
    .click();
  await page.getByRole("dialog", { name: "Profile" }).getByText("Rooms you share").waitFor();
  await expectAccessible(page, "profile card");
  await page.keyboard.press("Escape");
  await page.goto("/#/explore");
  await page.getByRole("list", { name: "Public rooms" }).waitFor();
  await expectAccessible(page, "explore");
  await page.getByRole("button", { name: "New room" }).click();
  await page.getByRole("radio", { name: /Public/ }).check();
  await expectAccessible(page, "new room");
  await page.keyboard.press("Escape");
  await page
    .getByRole("region", { name: /Invitations/ })
    .getByRole("link")
    .click();
  await page.getByRole("main").getByRole("button", { name: "Accept" }).waitFor();
  await expectAccessible(page, "invitation");
});

test.for(COLOR_SCHEMES)("the details of a room, %s", async (colorScheme) => {
  const { page } = await signUpWithRooms(`bea-${colorScheme}`, colorScheme);
  await page
    .getByRole("list", { name: "Rooms and chats" })
    .getByRole("link", { name: /Garden/ })
    .click();
  await page.getByRole("button", { name: "Details", exact: true }).click();
  const panel = page.getByRole("complementary", { name: /^Details/ });
  await panel.waitFor();
  await expectAccessible(page, "about");
  await panel.getByRole("button", { name: "Edit room" }).click();
  await expectAccessible(page, "edit room");
  await page.keyboard.press("Escape");
  await panel.getByRole("button", { name: "Invite people" }).click();
  await page.getByRole("option").first().waitFor();
  await expectAccessible(page, "invite people");
  await page.getByRole("tab", { name: "Links" }).click();
  await page.getByRole("button", { name: "Create link" }).click();
  await page.getByRole("button", { name: /QR code/ }).click();
  await page.getByRole("img", { name: /QR code/ }).waitFor();
  await expectAccessible(page, "invite links");
  await page.keyboard.press("Escape");
  await panel.getByRole("tab", { name: "Members" }).click();
  await panel
    .getByRole("button", { name: /^Actions for/ })
    .first()
    .click();
  await expectAccessible(page, "members");
  await page.keyboard.press("Escape");
  await panel.getByRole("tab", { name: "Settings" }).click();
  await expectAccessible(page, "room settings");
  await panel.getByRole("button", { name: "Delete room" }).click();
  await expectAccessible(page, "delete room");
});

test.for(COLOR_SCHEMES)("the settings, %s", async (colorScheme) => {
  const { page } = await env.signUp(`carl-${colorScheme}`, { colorScheme });
  for (const tab of ["Profile", "Account", "Devices", "Appearance", "Notifications", "Privacy", "About"]) {
    if (tab === "Profile") await page.goto("/#/settings/profile");
    await page.getByRole("tab", { name: tab }).click();
    await page.getByRole("tabpanel", { name: tab }).getByRole("heading").first().waitFor();
    await expectAccessible(page, tab);
  }
});

async function signUpWithRooms(name: string, colorScheme: "light" | "dark"): Promise<TestUser> {
  const friend = await env.registerAccount(`friend-${name}`);
  const person = await env.signUp(name, { colorScheme });
  const token = await env.accessTokenOf(person);
  const { room_id } = await env.request(token, "POST", "/_matrix/client/v3/createRoom", {
    name: "Garden",
    topic: "Seeds",
    preset: "public_chat",
    visibility: "public",
  });
  const room = encodeURIComponent(String(room_id));
  await env.request(friend.access_token, "POST", `/_matrix/client/v3/join/${room}`, {});
  await env.request(friend.access_token, "PUT", `/_matrix/client/v3/rooms/${room}/send/m.room.message/1`, { msgtype: "m.text", body: "Hello" });
  await env.request(friend.access_token, "POST", "/_matrix/client/v3/createRoom", { name: "Hike", invite: [person.userId] });
  return person;
}
