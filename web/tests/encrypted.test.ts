import { beforeAll, expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";
import { createRoom, messageField, messagesWith, type TestRoom, typeMessage } from "./roomHelpers.ts";

const ENCRYPTION_EVENT = { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };

const env = testEnvironment();
let alice: TestUser;
let tokens: { alice: string; bob: string };

beforeAll(async () => {
  alice = await env.signUp("alice");
  tokens = { alice: await env.accessTokenOf(alice), bob: (await env.registerAccount("bob")).access_token };
});

/** Returns the unencrypted messages and reactions of a room. */
async function unencryptedEvents(room: TestRoom): Promise<unknown[]> {
  const { chunk } = await env.request(tokens.alice, "GET", `${room.path}/messages?dir=b&limit=50`);
  return (chunk as { type: string }[]).filter(({ type }) => type === "m.room.message" || type === "m.reaction");
}

test("an encrypted room shows a notice and accepts no text", async () => {
  const room = await createRoom(env, [tokens.alice, tokens.bob], { initial_state: [ENCRYPTION_EVENT] });
  await room.send(
    tokens.bob,
    { algorithm: "m.megolm.v1.aes-sha2", ciphertext: "AwgAEn", session_id: "s", sender_key: "k", device_id: "d" },
    "m.room.encrypted",
  );
  await room.open(alice);
  await messagesWith(alice.page, "This message is encrypted and cannot be shown here yet.").waitFor();
  await alice.page.getByText("This room is encrypted. This page cannot encrypt yet").waitFor();
  expect(await messageField(alice.page).count()).toBe(0);
  expect(await alice.page.getByRole("button", { name: "Attach files" }).count()).toBe(0);

  await messagesWith(alice.page, "encrypted").hover();
  expect(await alice.page.getByRole("button", { name: "React" }).count()).toBe(0);
  expect(await alice.page.getByRole("button", { name: "Reply" }).count()).toBe(0);
});

test("a failed message is not sent once the room is encrypted", async () => {
  const room = await createRoom(env, [tokens.alice, tokens.bob]);
  await room.open(alice);
  await messagesWith(alice.page, "").first().waitFor({ state: "detached" });
  await alice.page.routeWebSocket(/stream/, (socket) => void socket.close());
  await alice.page.reload();
  await messageField(alice.page).waitFor();
  await alice.page.route(/\/send\//, async (route) => route.abort());
  await typeMessage(alice.page, "Do not leak");
  const mine = messagesWith(alice.page, "Do not leak");
  await mine.getByText("Not sent.").waitFor();
  await room.setState(tokens.alice, "m.room.encryption", ENCRYPTION_EVENT.content);
  await alice.page.getByText("This room is encrypted. This page cannot encrypt yet").waitFor();
  await alice.page.unroute(/\/send\//);

  await mine.getByRole("button", { name: "Try again" }).click();
  await mine.getByText("This room is encrypted, and this page cannot encrypt yet.").waitFor();
  expect(await unencryptedEvents(room)).toEqual([]);
});
