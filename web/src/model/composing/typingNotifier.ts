// Sends this user's typing notifications to a room.

import { type Api, path } from "../server/api.ts";
import type { SendChannel } from "./sendQueue.ts";

const TYPING_TIMEOUT_MS = 30_000;
/** The notification is repeated before the server drops it, and withdrawn after a pause. */
const TYPING_REFRESH_MS = 20_000;
const TYPING_IDLE_MS = 8_000;

export class TypingNotifier {
  private sentAt = 0;
  /** One request after the other, so that the last state arrives last. */
  private lastRequest: Promise<unknown> = Promise.resolve();
  private idleTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly api: Api,
    private readonly connection: SendChannel,
    private readonly roomId: string,
    private readonly me: string,
  ) {}

  keepTyping(): void {
    clearTimeout(this.idleTimer);
    this.idleTimer = setTimeout(() => this.stopTyping(), TYPING_IDLE_MS);
    if (Date.now() - this.sentAt < TYPING_REFRESH_MS) return;
    this.sentAt = Date.now();
    this.send(true);
  }

  stopTyping(): void {
    clearTimeout(this.idleTimer);
    if (this.sentAt === 0) return;
    this.sentAt = 0;
    this.send(false);
  }

  /** Sends the state; a failure is ignored. */
  private send(typing: boolean): void {
    this.lastRequest = this.lastRequest.then(async () => this.request(typing)).catch(() => {});
  }

  private async request(typing: boolean): Promise<unknown> {
    const params = { typing, ...(typing ? { timeout: TYPING_TIMEOUT_MS } : {}) };
    if (this.connection.canRequest) return this.connection.request("typing", { room_id: this.roomId, ...params });
    return this.api.put(path`/_matrix/client/v3/rooms/${this.roomId}/typing/${this.me}`, params);
  }
}
