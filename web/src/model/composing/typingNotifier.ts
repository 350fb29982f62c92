// Tells a room that this user is typing.

import { type Api, path } from "../server/api.ts";
import type { Channel } from "./sendQueue.ts";

const TIMEOUT_MS = 30_000;
/** It is told again before the server forgets it, and taken back when nothing was typed for a while. */
const AGAIN_MS = 20_000;
const IDLE_MS = 8_000;

export class Typist {
  private toldAt = 0;
  /** One after the other: what is said last must arrive last. */
  private telling: Promise<unknown> = Promise.resolve();
  private idle: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly api: Api,
    private readonly live: Channel,
    private readonly roomId: string,
    private readonly me: string,
  ) {}

  typed(): void {
    clearTimeout(this.idle);
    this.idle = setTimeout(() => this.stopped(), IDLE_MS);
    if (Date.now() - this.toldAt < AGAIN_MS) return;
    this.toldAt = Date.now();
    this.tell(true);
  }

  stopped(): void {
    clearTimeout(this.idle);
    if (this.toldAt === 0) return;
    this.toldAt = 0;
    this.tell(false);
  }

  /** It is said in passing: if it is lost, nothing is. */
  private tell(typing: boolean): void {
    this.telling = this.telling.then(async () => this.request(typing)).catch(() => {});
  }

  private async request(typing: boolean): Promise<unknown> {
    const params = { typing, ...(typing ? { timeout: TIMEOUT_MS } : {}) };
    if (this.live.canRequest) return this.live.request("typing", { room_id: this.roomId, ...params });
    return this.api.put(path`/_matrix/client/v3/rooms/${this.roomId}/typing/${this.me}`, params);
  }
}
