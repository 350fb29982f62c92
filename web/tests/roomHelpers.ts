// What the tests of conversations have in common: rooms that are there already, and things that are said in them.

import type { Locator, Page } from "playwright-core";
import type { Person, World } from "./harness.ts";

type Content = Record<string, unknown>;

/** A room as tests know it: what is done there without a browser. */
export class TestRoom {
  private transactions = 0;

  constructor(
    private readonly here: World,
    readonly id: string,
  ) {}

  /** Says something. Returns the event's id. */
  async says(token: string, content: string | Content, type = "m.room.message"): Promise<string> {
    const body = typeof content === "string" ? { msgtype: "m.text", body: content } : content;
    const path = `${this.path}/send/${type}/t${Date.now()}-${this.transactions++}`;
    return (await this.here.api(token, "PUT", path, body))["event_id"] as string;
  }

  async setState(token: string, type: string, content: Content): Promise<void> {
    await this.here.api(token, "PUT", `${this.path}/state/${type}/`, content);
  }

  async redact(token: string, eventId: string): Promise<void> {
    await this.here.api(token, "PUT", `${this.path}/redact/${encodeURIComponent(eventId)}/t${this.transactions++}`, {});
  }

  async reads(token: string, eventId: string): Promise<void> {
    await this.here.api(token, "POST", `${this.path}/receipt/m.read/${encodeURIComponent(eventId)}`, {});
  }

  /** Opens the room in somebody's browser. */
  async open(person: Person, event?: string): Promise<void> {
    const hash = `#/room/${encodeURIComponent(this.id)}${event === undefined ? "" : `/${encodeURIComponent(event)}`}`;
    await person.page.goto(`/${hash}`);
    await log(person.page).waitFor();
  }

  get path(): string {
    return `/_matrix/client/v3/rooms/${encodeURIComponent(this.id)}`;
  }
}

/** Makes a room with these people in it; the first made it. */
export async function roomOf(here: World, tokens: string[], options: Content = {}): Promise<TestRoom> {
  const [first, ...others] = tokens;
  const created = await here.api(first!, "POST", "/_matrix/client/v3/createRoom", { name: "The room", preset: "public_chat", ...options });
  const id = created["room_id"] as string;
  for (const token of others) await here.api(token, "POST", `/_matrix/client/v3/join/${encodeURIComponent(id)}`, {});
  return new TestRoom(here, id);
}

export function log(page: Page): Locator {
  return page.getByRole("log", { name: "Messages", exact: true });
}

/** The messages in which something is said. */
export function message(page: Page, text: string | RegExp): Locator {
  return log(page).getByRole("article").filter({ hasText: text });
}

export function field(page: Page): Locator {
  return page.getByRole("textbox", { name: "Message to The room" });
}

export async function write(page: Page, text: string): Promise<void> {
  await field(page).fill(text);
  await field(page).press("Enter");
}

/** Opens what can be done with a message. */
export async function actions(page: Page, text: string): Promise<Locator> {
  const found = message(page, text).last();
  await found.hover();
  return found.getByRole("toolbar", { name: "Message actions" });
}

/** How far the view of the messages is from its end, in pixels. */
export async function below(page: Page): Promise<number> {
  return log(page).evaluate((content) => {
    const view = content.parentElement!;
    return view.scrollHeight - view.clientHeight - view.scrollTop;
  });
}
