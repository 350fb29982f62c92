// A thread of a room: its root and the replies.

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

  /** Follows the events of the room. Returns a function that stops it. */
  followRoom(): () => void {
    const listener = (raw: RawEvent) => this.applyRoomEvent(raw);
    this.roomTimeline.newEventListeners.add(listener);
    return () => this.roomTimeline.newEventListeners.delete(listener);
  }

  protected override async fetchPage(_: "b" | "f", from: string): Promise<MessagesPage> {
    const address = path`/_matrix/client/v1/rooms/${this.roomId}/relations/${this.root}`;
    const answer = await this.api.get<{ chunk: RawEvent[]; next_batch?: string }>(address, {
      dir: "b",
      limit: PAGE_SIZE,
      // Includes the reactions to the replies.
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
    const affected = raw.type === "m.room.redaction" ? redactionTarget(raw) : target;
    if (isAnswer || (affected !== undefined && this.eventsById.has(affected))) this.append([raw]);
  }

  private async rootEvent(): Promise<RawEvent> {
    const known = this.roomTimeline.get(this.root)?.raw;
    return known ?? this.api.get<RawEvent>(path`/_matrix/client/v3/rooms/${this.roomId}/event/${this.root}`);
  }
}

/** The token that asks for the newest replies. */
const NEWEST_TOKEN = "";
