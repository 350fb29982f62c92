import type { TimelineRow } from "../../../model/timeline/timelineRows.ts";
import { dayName } from "../../components/formatTime.ts";
import { Message } from "../message/Message.tsx";
import { StateChanges } from "./StateChanges.tsx";

interface Props {
  row: TimelineRow;
  isCurrent: boolean;
  isHighlighted: boolean;
}

export function TimelineRowView({ row, isCurrent, isHighlighted }: Props) {
  return (
    <div class="list-row" data-key={row.key}>
      {row.day !== null && (
        <h2 class="day">
          <time dateTime={new Date(row.day).toISOString().slice(0, 10)}>{dayName(row.day)}</time>
        </h2>
      )}
      {row.isUnread && (
        <div class="unread-line" role="separator" aria-label="New messages">
          <span>New messages</span>
        </div>
      )}
      {row.kind === "message" ? (
        <Message event={row.event} rowKey={row.key} isFirst={row.isFirst} isLast={row.isLast} isCurrent={isCurrent} isHighlighted={isHighlighted} />
      ) : (
        <StateChanges events={row.events} count={row.events.length} />
      )}
    </div>
  );
}
