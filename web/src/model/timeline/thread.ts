// A thread of a room: its root and what was answered to it.

import { type Api, path } from "../server/api.ts";
import { type RawEvent, relationOf } from "../server/events.ts";
import { type Messages, redactedBy, Timeline } from "./timeline.ts";

const PAGE = 50;

export class Thread extends Timeline {
  private isComplete = false;

  constructor(
    api: Api,
    private readonly room: Timeline,
    readonly root: string,
  ) {
    super(api, room.roomId);
    this.onState = room.onState;
    this.back.token = FIRST;
  }

  /** Takes part in what happens in the room; the function that is returned ends it. */
  follow(): () => void {
    const follower = (raw: RawEvent) => this.take(raw);
    this.room.followers.add(follower);
    return () => this.room.followers.delete(follower);
  }

  protected override async messages(_: "b" | "f", from: string): Promise<Messages> {
    const address = path`/_matrix/client/v1/rooms/${this.roomId}/relations/${this.root}`;
    const answer = await this.api.get<{ chunk: RawEvent[]; next_batch?: string }>(address, {
      dir: "b",
      limit: PAGE,
      // Reactions to the answers come with them.
      recurse: true,
      from: from === FIRST ? undefined : from,
    });
    const chunk = [...answer.chunk];
    if (answer.next_batch === undefined && !this.isComplete) {
      this.isComplete = true;
      chunk.push(await this.rootEvent());
    }
    return answer.next_batch === undefined ? { chunk } : { chunk, end: answer.next_batch };
  }

  private take(raw: RawEvent): void {
    const { type, target } = relationOf(raw.content);
    const isAnswer = type === "m.thread" && target === this.root;
    const about = raw.type === "m.room.redaction" ? redactedBy(raw) : target;
    if (isAnswer || (about !== undefined && this.byId.has(about))) this.append([raw]);
  }

  private async rootEvent(): Promise<RawEvent> {
    const known = this.room.get(this.root)?.raw;
    return known ?? this.api.get<RawEvent>(path`/_matrix/client/v3/rooms/${this.roomId}/event/${this.root}`);
  }
}

/** Asks for the newest answers. */
const FIRST = "";
