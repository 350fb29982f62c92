// A thread of a room: its root and what was answered to it.

import { type Api, path } from "../server/api.ts";
import { type RawEvent, relationOf } from "../server/events.ts";
import { type MessagesPage, redactionTarget, Timeline } from "./timeline.ts";

const PAGE_SIZE = 50;

export class Thread extends Timeline {
  private hasRoot = false;

  constructor(
    api: Api,
    private readonly roomTimeline: Timeline,
    readonly root: string,
  ) {
    super(api, roomTimeline.roomId);
    this.onHistoricState = roomTimeline.onHistoricState;
    this.back.token = NEWEST_TOKEN;
  }

  /** Takes part in what happens in the room; the function that is returned ends it. */
  followRoom(): () => void {
    const follower = (raw: RawEvent) => this.applyRoomEvent(raw);
    this.roomTimeline.newEventListeners.add(follower);
    return () => this.roomTimeline.newEventListeners.delete(follower);
  }

  protected override async fetchPage(_: "b" | "f", from: string): Promise<MessagesPage> {
    const address = path`/_matrix/client/v1/rooms/${this.roomId}/relations/${this.root}`;
    const answer = await this.api.get<{ chunk: RawEvent[]; next_batch?: string }>(address, {
      dir: "b",
      limit: PAGE_SIZE,
      // Reactions to the answers come with them.
      recurse: true,
      from: from === NEWEST_TOKEN ? undefined : from,
    });
    const chunk = [...answer.chunk];
    if (answer.next_batch === undefined && !this.hasRoot) {
      this.hasRoot = true;
      chunk.push(await this.rootEvent());
    }
    return answer.next_batch === undefined ? { chunk } : { chunk, end: answer.next_batch };
  }

  private applyRoomEvent(raw: RawEvent): void {
    const { type, target } = relationOf(raw.content);
    const isAnswer = type === "m.thread" && target === this.root;
    const about = raw.type === "m.room.redaction" ? redactionTarget(raw) : target;
    if (isAnswer || (about !== undefined && this.eventsById.has(about))) this.append([raw]);
  }

  private async rootEvent(): Promise<RawEvent> {
    const known = this.roomTimeline.get(this.root)?.raw;
    return known ?? this.api.get<RawEvent>(path`/_matrix/client/v3/rooms/${this.roomId}/event/${this.root}`);
  }
}

/** Asks for the newest answers. */
const NEWEST_TOKEN = "";
