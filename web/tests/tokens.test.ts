import { expect, test } from "vitest";
import { PASSWORD, world } from "./harness.ts";

const here = world({ PARLOUR__REGISTRATION__OPEN: "false" });

test("where registration needs a token, the form asks for it", async () => {
  const ann = await here.stranger();
  await ann.page.goto("/");
  await ann.page.getByRole("link", { name: "Create an account" }).click();
  await ann.page.getByLabel("Registration token").fill(new URL(here.server.firstLink).searchParams.get("registration_token")!);
  await ann.page.getByLabel("User name").fill("ann");
  await ann.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await ann.page.getByLabel("Repeat the password", { exact: true }).fill(PASSWORD);
  await ann.page.getByRole("button", { name: "Create account" }).click();
  await ann.page.getByText("Choose a conversation").waitFor();
  expect(ann.problems).toEqual([]);
});

test("a token that is wrong is said to be", async () => {
  const bob = await here.stranger();
  await bob.page.goto("/#/register");
  await bob.page.getByLabel("Registration token").fill("no-such-token");
  await bob.page.getByLabel("User name").fill("bob");
  await bob.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await bob.page.getByLabel("Repeat the password", { exact: true }).fill(PASSWORD);
  await bob.page.getByRole("button", { name: "Create account" }).click();
  await bob.page.getByRole("alert").filter({ hasText: /token/i }).waitFor();
});
