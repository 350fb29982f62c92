import { useMemo, useRef } from "preact/hooks";
import { Drafts } from "../../model/composing/drafts.ts";
import type { Room } from "../../model/rooms/room.ts";
import { useClient } from "../clientContext.ts";
import { VirtualList } from "../components/VirtualList.tsx";
import { currentRoute } from "../currentRoute.ts";
import { RoomRow } from "./RoomRow.tsx";

/** The height of a row, in rem; the same as in Sidebar.css. */
const ROW_HEIGHT_REM = 3.75;

/** The joined rooms. Arrow keys move between them. */
export function RoomList({ rooms }: { rooms: Room[] }) {
  const { me } = useClient();
  const list = useRef<HTMLDivElement>(null);
  // Drafts change in the open room; the list shows them after the user leaves it.
  const drafts = useMemo(() => new Drafts(localStorage, me).draftTexts(), [currentRoute.value]);
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    const rows = [...(list.current?.querySelectorAll<HTMLElement>(".room-row") ?? [])];
    const at = rows.indexOf(document.activeElement as HTMLElement);
    const next = rows[at + step];
    event.preventDefault();
    if (next !== undefined) next.focus();
    else if (step < 0) document.querySelector<HTMLElement>(".sidebar-search .input")?.focus();
  };
  return (
    <div ref={list} class="room-list" onKeyDown={onKeyDown}>
      <VirtualList
        items={rooms}
        keyOf={(room) => room.id}
        rowHeight={ROW_HEIGHT_REM}
        label="Rooms and chats"
        render={(room) => <RoomRow room={room} draft={drafts.get(room.id)} />}
      />
    </div>
  );
}
