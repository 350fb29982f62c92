import { expect, test } from "vitest";
import { world } from "./harness.ts";

const here = world();

test("somebody who registered elsewhere stays logged in over a reload", async () => {
  const alice = await here.person("alice");
  await alice.page.getByText("Choose a conversation").waitFor();
  await alice.page.reload();
  await alice.page.getByText("Choose a conversation").waitFor();
  expect(alice.problems).toEqual([]);
});
