// Sends events. A local echo is in the timeline immediately and shows the progress. A failed event can be sent again;
// its transaction id prevents duplicates.

import type { Room } from "../rooms/room.ts";
import { type Api, MatrixError, messageOf, NetworkError, path, UserFacingError } from "../server/api.ts";
import type { Content } from "../server/events.ts";
import type { LiveConnection } from "../server/liveConnection.ts";
import { randomId } from "../server/randomId.ts";
import { TimelineEvent } from "../timeline/timeline.ts";

/** The parts of the live connection that are needed; tests have their own. */
export type SendChannel = Pick<LiveConnection, "canRequest" | "request" | "state">;

interface SendJob {
  room: Room;
  event: TimelineEvent;
}

export class SendQueue {
  /** One queue per room keeps the messages in order. */
  private readonly queues = new Map<string, SendJob[]>();

  constructor(
    private readonly api: Api,
    private readonly connection: SendChannel,
    private readonly me: string,
  ) {}

  /**
   * Sends a message-like event and shows it immediately. Throws in an encrypted room, where nothing may be sent in
   * plain text.
   */
  send(room: Room, content: Content, type = "m.room.message"): TimelineEvent {
    assertNotEncrypted(room);
    const key = randomId();
    const event = new TimelineEvent({ event_id: `~${key}`, type, sender: this.me, origin_server_ts: Date.now(), content }, key);
    event.sendState = "sending";
    room.timeline.addEcho(event);
    this.enqueue({ room, event });
    return event;
  }

  /** Sends a failed event again. */
  retry(room: Room, event: TimelineEvent): void {
    if (event.sendState !== "failed") return;
    event.sendState = "sending";
    event.problem = null;
    event.notifyChanged();
    this.enqueue({ room, event });
  }

  /** Sends all events again that failed for lack of a connection. */
  retryAll(rooms: Iterable<Room>): void {
    for (const room of rooms) {
      for (const event of room.timeline.pending) if (event.problem === OFFLINE_PROBLEM) this.retry(room, event);
    }
  }

  /** Sends an event without a local echo, for example a reaction. Returns its event id. */
  async sendWithoutEcho(room: Room, type: string, content: Content): Promise<string> {
    assertNotEncrypted(room);
    return this.putEvent(room.id, type, content, randomId());
  }

  async redact(roomId: string, eventId: string, reason?: string): Promise<void> {
    const body = reason === undefined ? {} : { reason };
    await this.api.put(path`/_matrix/client/v3/rooms/${roomId}/redact/${eventId}/${randomId()}`, body);
  }

  private enqueue(job: SendJob): void {
    const queue = this.queues.get(job.room.id);
    if (queue !== undefined) {
      queue.push(job);
      return;
    }
    const newQueue = [job];
    this.queues.set(job.room.id, newQueue);
    void this.processQueue(job.room.id, newQueue);
  }

  private async processQueue(roomId: string, queue: SendJob[]): Promise<void> {
    for (let job = queue[0]; job !== undefined; queue.shift(), job = queue[0]) {
      const { room, event } = job;
      try {
        // The room may have become encrypted while the event waited.
        assertNotEncrypted(room);
        const eventId = await this.putEvent(roomId, event.raw.type, event.raw.content, event.key);
        room.timeline.markEchoStored(event, eventId);
      } catch (error) {
        if (error instanceof NetworkError) {
          // Later events must not arrive before this one.
          for (const { event } of queue.splice(0)) markFailed(event, OFFLINE_PROBLEM);
          this.retryLater(room);
          break;
        }
        markFailed(event, messageOf(error));
      }
    }
    this.queues.delete(roomId);
  }

  /**
   * While the connection is up only this request failed, so it is tried again after a while. Otherwise everything is
   * sent again when the connection is back.
   */
  private retryLater(room: Room): void {
    if (this.connection.state.value !== "online") return;
    setTimeout(() => this.retryAll([room]), RETRY_DELAY_MS);
  }

  private async putEvent(roomId: string, type: string, content: Content, transaction: string): Promise<string> {
    if (this.connection.canRequest) {
      try {
        const params = { room_id: roomId, event_type: type, content };
        return (await this.connection.request<{ event_id: string }>("send", params, transaction)).event_id;
      } catch (error) {
        // After a broken channel it is unknown whether the event was sent, and HTTP can wait out a rate limit. The
        // transaction id makes it the same event there.
        if (error instanceof MatrixError && error.status !== 429) throw error;
      }
    }
    const address = path`/_matrix/client/v3/rooms/${roomId}/send/${type}/${transaction}`;
    return (await this.api.put<{ event_id: string }>(address, content)).event_id;
  }
}

const OFFLINE_PROBLEM = "There is no connection.";
const RETRY_DELAY_MS = 5_000;

function markFailed(event: TimelineEvent, problem: string): void {
  event.sendState = "failed";
  event.problem = problem;
  event.notifyChanged();
}

function assertNotEncrypted(room: Room): void {
  if (room.encrypted.value) throw new UserFacingError("This room is encrypted, and this page cannot encrypt yet.");
}
