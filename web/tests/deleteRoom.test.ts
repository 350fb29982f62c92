import { expect, test } from "vitest";
import { testEnvironment } from "./harness.ts";

const env = testEnvironment();

test("the creator deletes a room, and it disappears for everyone", async () => {
  const [ann, bob] = [await env.signUp("ann"), await env.signUp("bob")];
  const { room_id } = await env.request(await env.accessTokenOf(ann), "POST", "/_matrix/client/v3/createRoom", {
    name: "Doomed",
    preset: "public_chat",
    visibility: "public",
    room_alias_name: "doomed",
  });
  const id = encodeURIComponent(String(room_id));
  await env.request(await env.accessTokenOf(bob), "POST", `/_matrix/client/v3/join/${id}`, {});
  await bob.page
    .getByRole("list", { name: "Rooms and chats" })
    .getByRole("link", { name: /Doomed/ })
    .waitFor();

  await ann.page.goto(`/#/room/${id}`);
  await ann.page.getByRole("button", { name: "Details", exact: true }).click();
  await ann.page.getByRole("complementary").getByRole("tab", { name: "Settings" }).click();
  await ann.page.getByRole("button", { name: "Delete room" }).click();
  const dialog = ann.page.getByRole("dialog", { name: "Delete this room?" });
  expect(await dialog.getByRole("button", { name: "Delete room" }).isDisabled()).toBe(true);
  await dialog.getByLabel("Type the room's name to continue").fill("Doomed");
  await dialog.getByRole("button", { name: "Delete room" }).click();

  for (const person of [ann, bob]) {
    await expect.poll(async () => person.page.getByRole("list", { name: "Rooms and chats" }).getByRole("link").count()).toBe(0);
  }
  await ann.page.getByText("Choose a conversation").waitFor();
  await expect(env.request("", "GET", "/_matrix/client/v3/directory/room/%23doomed%3Alocalhost")).rejects.toThrow("404");
  await bob.page.reload();
  await bob.page.getByText("No conversations yet").waitFor();
  expect(ann.consoleErrors).toEqual([]);
});

test("only the creator is offered to delete a room", async () => {
  const [cara, dan] = [await env.signUp("cara"), await env.signUp("dan")];
  const { room_id } = await env.request(await env.accessTokenOf(cara), "POST", "/_matrix/client/v3/createRoom", { name: "Safe", preset: "public_chat" });
  const id = encodeURIComponent(String(room_id));
  await env.request(await env.accessTokenOf(dan), "POST", `/_matrix/client/v3/join/${id}`, {});
  await dan.page.goto(`/#/room/${id}`);
  await dan.page.getByRole("button", { name: "Details", exact: true }).click();
  await dan.page.getByRole("complementary").getByRole("tab", { name: "Settings" }).click();
  await dan.page.getByRole("button", { name: "Leave room" }).waitFor();
  expect(await dan.page.getByRole("button", { name: "Delete room" }).count()).toBe(0);
});
