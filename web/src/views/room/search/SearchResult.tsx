import { type SearchHit, splitAtWords } from "../../../model/timeline/messageSearch.ts";
import { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { useClient } from "../../clientContext.ts";
import { hueOf } from "../../components/Avatar.tsx";
import { exactTime, shortTime } from "../../components/formatTime.ts";
import { navigate } from "../../currentRoute.ts";
import { plainText } from "../message/plainText.ts";
import { useRoomContext } from "../roomContext.ts";

/** A found message. A click goes to it. */
export function SearchResult({ hit, words }: { hit: SearchHit; words: string[] }) {
  const { room, goTo } = useRoomContext();
  const { rooms } = useClient();
  const { event, roomId } = hit;
  const where = rooms.get(roomId);
  const body = plainText(new TimelineEvent(event)).slice(0, 500);
  const show = () => (roomId === room.id ? goTo(event.event_id) : navigate({ at: "room", id: roomId, event: event.event_id }));
  return (
    <button type="button" class="hit" onClick={show}>
      <span class="hit-head">
        <bdi class={`hit-name ellipsis name-${hueOf(event.sender)}`}>{(where ?? room).memberName(event.sender)}</bdi>
        <time dateTime={new Date(event.origin_server_ts).toISOString()} title={exactTime(event.origin_server_ts)}>
          {shortTime(event.origin_server_ts)}
        </time>
      </span>
      {roomId !== room.id && <span class="hit-room ellipsis">in {where?.name.value ?? roomId}</span>}
      <span class="hit-text" dir="auto">
        {splitAtWords(body, words).map(({ text, found }, at) => (found ? <mark key={at}>{text}</mark> : text))}
      </span>
    </button>
  );
}
