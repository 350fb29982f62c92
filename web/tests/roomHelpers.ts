// Helpers for the tests of conversations: rooms, and the messages in them.

import type { Locator, Page } from "playwright-core";
import type { TestEnvironment, TestUser } from "./harness.ts";

type Content = Record<string, unknown>;

/** A room in which tests act through the API. */
export class TestRoom {
  private transactionCount = 0;

  constructor(
    private readonly env: TestEnvironment,
    readonly id: string,
  ) {}

  /** Sends a message or another event. Returns its event id. */
  async send(token: string, content: string | Content, type = "m.room.message"): Promise<string> {
    const body = typeof content === "string" ? { msgtype: "m.text", body: content } : content;
    const path = `${this.path}/send/${type}/t${Date.now()}-${this.transactionCount++}`;
    return (await this.env.request(token, "PUT", path, body))["event_id"] as string;
  }

  async setState(token: string, type: string, content: Content): Promise<void> {
    await this.env.request(token, "PUT", `${this.path}/state/${type}/`, content);
  }

  async redact(token: string, eventId: string): Promise<void> {
    await this.env.request(token, "PUT", `${this.path}/redact/${encodeURIComponent(eventId)}/t${this.transactionCount++}`, {});
  }

  async sendReceipt(token: string, eventId: string): Promise<void> {
    await this.env.request(token, "POST", `${this.path}/receipt/m.read/${encodeURIComponent(eventId)}`, {});
  }

  /** Opens the room in a user's browser. */
  async open(person: TestUser, event?: string): Promise<void> {
    const hash = `#/room/${encodeURIComponent(this.id)}${event === undefined ? "" : `/${encodeURIComponent(event)}`}`;
    await person.page.goto(`/${hash}`);
    await messageLog(person.page).waitFor();
  }

  /** Returns the content of the newest message. */
  async newestContent(token: string): Promise<Content> {
    const { chunk } = await this.env.request(token, "GET", `${this.path}/messages?dir=b&limit=5`);
    return (chunk as { type: string; content: Content }[]).find(({ type }) => type === "m.room.message")!.content;
  }

  get path(): string {
    return `/_matrix/client/v3/rooms/${encodeURIComponent(this.id)}`;
  }
}

/** Creates a room with these users in it; the first is the creator. */
export async function createRoom(env: TestEnvironment, tokens: string[], options: Content = {}): Promise<TestRoom> {
  const [first, ...others] = tokens;
  const created = await env.request(first!, "POST", "/_matrix/client/v3/createRoom", { name: "The room", preset: "public_chat", ...options });
  const id = created["room_id"] as string;
  for (const token of others) await env.request(token, "POST", `/_matrix/client/v3/join/${encodeURIComponent(id)}`, {});
  return new TestRoom(env, id);
}

export interface RoomOfTwo {
  alice: TestUser;
  bob: TestUser;
  tokens: { alice: string; bob: string };
  room: TestRoom;
}

/** Signs up Alice and Bob and opens a room with both of them in their browsers. */
export async function openRoomOfTwo(env: TestEnvironment): Promise<RoomOfTwo> {
  const alice = await env.signUp("alice");
  const bob = await env.signUp("bob");
  const tokens = { alice: await env.accessTokenOf(alice), bob: await env.accessTokenOf(bob) };
  const room = await createRoom(env, [tokens.alice, tokens.bob]);
  await room.open(alice);
  await room.open(bob);
  return { alice, bob, tokens, room };
}

export function messageLog(page: Page): Locator {
  return page.getByRole("log", { name: "Messages", exact: true });
}

/** Returns the messages that contain a text. */
export function messagesWith(page: Page, text: string | RegExp): Locator {
  return messageLog(page).getByRole("article").filter({ hasText: text });
}

export function messageField(page: Page): Locator {
  return page.getByRole("textbox", { name: "Message to The room" });
}

export async function typeMessage(page: Page, text: string): Promise<void> {
  await messageField(page).fill(text);
  await messageField(page).press("Enter");
}

/** Hovers over a message and returns its toolbar. */
export async function messageActions(page: Page, text: string): Promise<Locator> {
  const found = messagesWith(page, text).last();
  await found.hover();
  return found.getByRole("toolbar", { name: "Message actions" });
}

/** Returns the distance of the view from the end of the list, in pixels. */
export async function pixelsBelow(page: Page): Promise<number> {
  return messageLog(page).evaluate((content) => {
    const view = content.parentElement!;
    return view.scrollHeight - view.clientHeight - view.scrollTop;
  });
}
