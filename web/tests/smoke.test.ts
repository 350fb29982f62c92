import { expect, test } from "vitest";
import { testEnvironment } from "./harness.ts";

const env = testEnvironment();

test("a session from elsewhere survives a reload", async () => {
  const alice = await env.signUp("alice");
  await alice.page.getByText("Choose a conversation").waitFor();
  await alice.page.reload();
  await alice.page.getByText("Choose a conversation").waitFor();
  expect(alice.consoleErrors).toEqual([]);
});
