import { signal } from "@preact/signals";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { ConnectionState } from "../server/liveConnection.ts";
import { apiAnswering } from "../testHelpers.ts";
import type { SendChannel } from "./sendQueue.ts";
import { TypingNotifier } from "./typingNotifier.ts";

let sentStates: boolean[];
let pendingAnswers: (() => void)[];
let notifier: TypingNotifier;

beforeEach(() => {
  vi.useFakeTimers();
  [sentStates, pendingAnswers] = [[], []];
  const request = async (_: string, params: unknown) => {
    sentStates.push((params as { typing: boolean }).typing);
    return new Promise<void>((resolve) => pendingAnswers.push(resolve));
  };
  const live: SendChannel = { canRequest: true, state: signal<ConnectionState>("online"), request: request as SendChannel["request"] };
  notifier = new TypingNotifier(
    apiAnswering(() => ({})),
    live,
    "!r:x",
    "@me:x",
  );
});
afterEach(() => void vi.useRealTimers());

async function waitForResponse(): Promise<void> {
  pendingAnswers.shift()?.();
  await vi.advanceTimersByTimeAsync(0);
}

test("typing is sent once, and repeated before it expires", async () => {
  for (let second = 0; second < 25; second++) {
    notifier.keepTyping();
    await vi.advanceTimersByTimeAsync(1_000);
    await waitForResponse();
  }
  expect(sentStates).toEqual([true, true]);
});

test("a pause or sending a message ends typing", async () => {
  notifier.keepTyping();
  await vi.advanceTimersByTimeAsync(0);
  await waitForResponse();
  await vi.advanceTimersByTimeAsync(8_000);
  expect(sentStates).toEqual([true, false]);
  await waitForResponse();
  notifier.stopTyping();
  await vi.advanceTimersByTimeAsync(0);
  expect(sentStates).toEqual([true, false]);
});

test("the last typing state arrives last", async () => {
  notifier.keepTyping();
  notifier.stopTyping();
  notifier.keepTyping();
  await vi.advanceTimersByTimeAsync(0);
  expect(sentStates).toEqual([true]);
  await waitForResponse();
  await waitForResponse();
  expect(sentStates).toEqual([true, false, true]);
});
