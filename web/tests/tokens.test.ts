import { expect, test } from "vitest";
import { PASSWORD, testEnvironment } from "./harness.ts";

const env = testEnvironment({ PARLOUR__REGISTRATION__OPEN: "false" });

test("the form asks for a registration token if one is needed", async () => {
  const ann = await env.openBrowser();
  await ann.page.goto("/");
  await ann.page.getByRole("link", { name: "Create an account" }).click();
  await ann.page.getByLabel("Registration token").fill(new URL(env.server.firstLink).searchParams.get("registration_token")!);
  await ann.page.getByLabel("User name").fill("ann");
  await ann.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await ann.page.getByLabel("Repeat the password", { exact: true }).fill(PASSWORD);
  await ann.page.getByRole("button", { name: "Create account" }).click();
  await ann.page.getByText("Choose a conversation").waitFor();
  expect(ann.consoleErrors).toEqual([]);
});

test("a wrong registration token is reported", async () => {
  const bob = await env.openBrowser();
  await bob.page.goto("/#/register");
  await bob.page.getByLabel("Registration token").fill("no-such-token");
  await bob.page.getByLabel("User name").fill("bob");
  await bob.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await bob.page.getByLabel("Repeat the password", { exact: true }).fill(PASSWORD);
  await bob.page.getByRole("button", { name: "Create account" }).click();
  await bob.page.getByRole("alert").filter({ hasText: /token/i }).waitFor();
});

test("an invite link allows registration although it is closed", async () => {
  const login = { type: "m.login.password", identifier: { type: "m.id.user", user: "ann" }, password: PASSWORD };
  const token = String((await env.request("", "POST", "/_matrix/client/v3/login", login))["access_token"]);
  const { room_id } = await env.request(token, "POST", "/_matrix/client/v3/createRoom", { name: "Tennis", preset: "private_chat" });
  const link = await env.request(token, "POST", `/_parlour/client/v1/rooms/${encodeURIComponent(String(room_id))}/invite_links`, {});
  const cara = await env.openBrowser();
  await cara.page.goto(`/#/invite/${String(link["token"])}`);
  await cara.page.getByRole("button", { name: "Create an account" }).click();
  await cara.page.getByLabel("User name").fill("cara");
  await cara.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await cara.page.getByLabel("Repeat the password", { exact: true }).fill(PASSWORD);
  await cara.page.getByRole("button", { name: "Create account" }).click();
  await cara.page.getByRole("main").getByRole("heading", { name: "Tennis" }).waitFor();
  expect(cara.consoleErrors).toEqual([]);
});
