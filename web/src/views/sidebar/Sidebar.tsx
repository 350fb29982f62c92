import "./Sidebar.css";
import { useEffect, useRef, useState } from "preact/hooks";
import { filterRooms, type RoomFilter } from "../../model/rooms/roomFilter.ts";
import { routeHref } from "../../model/route.ts";
import { useClient } from "../clientContext.ts";
import { Icon, type IconName } from "../components/Icon.tsx";
import { currentRoute } from "../currentRoute.ts";
import { AccountMenu } from "./AccountMenu.tsx";
import { Invitations } from "./Invitations.tsx";
import { NewMenu } from "./NewMenu.tsx";
import { RoomList } from "./RoomList.tsx";
import { SearchSuggestions } from "./SearchSuggestions.tsx";

const ROOM_FILTERS: { id: RoomFilter; label: string }[] = [
  { id: "all", label: "All" },
  { id: "unread", label: "Unread" },
  { id: "direct", label: "Direct" },
  { id: "rooms", label: "Rooms" },
];

/** The list of conversations, and links to the other pages. */
export function Sidebar() {
  const { rooms } = useClient();
  const [filter, setFilter] = useState<RoomFilter>("all");
  const [search, setSearch] = useState("");
  const shown = filterRooms(rooms.joined.value, filter, search);
  return (
    <nav class="sidebar" aria-label="Conversations">
      <div class="sidebar-top">
        <AccountMenu />
        <PageLink at="people" icon="people" label="People" />
        <PageLink at="explore" icon="compass" label="Explore rooms" />
        <NewMenu />
      </div>
      <div class="sidebar-search">
        <SearchField value={search} onChange={setSearch} />
        <div class="chips" role="group" aria-label="Show">
          {ROOM_FILTERS.map(({ id, label }) => (
            <button key={id} type="button" class="chip" aria-pressed={filter === id} onClick={() => setFilter(id)}>
              {label}
            </button>
          ))}
        </div>
      </div>
      <div class="sidebar-list">
        {search === "" && <Invitations />}
        {rooms.isReady.value ? <RoomList rooms={shown} /> : <ConversationsSkeleton />}
        {rooms.isReady.value && shown.length === 0 && <NoConversations filter={filter} search={search} />}
        {search.trim() !== "" && <SearchSuggestions search={search.trim()} onOpen={() => setSearch("")} />}
      </div>
    </nav>
  );
}

function PageLink({ at, icon, label }: { at: "people" | "explore"; icon: IconName; label: string }) {
  const here = currentRoute.value.at === at;
  return (
    <a class="icon-button place" href={routeHref({ at })} aria-label={label} title={label} aria-current={here ? "page" : undefined}>
      <Icon name={icon} />
    </a>
  );
}

function SearchField({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const focus = (event: KeyboardEvent) => {
      if (!(event.ctrlKey || event.metaKey) || event.key !== "k") return;
      event.preventDefault();
      input.current?.focus();
      input.current?.select();
    };
    addEventListener("keydown", focus);
    return () => removeEventListener("keydown", focus);
  }, []);
  return (
    <div class="search-field">
      <Icon name="search" />
      <input
        ref={input}
        type="search"
        class="input"
        placeholder="Search"
        aria-label="Search rooms and people"
        aria-keyshortcuts="Control+K"
        value={value}
        onInput={(event) => onChange(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") onChange("");
          if (event.key === "ArrowDown") {
            event.preventDefault();
            document.querySelector<HTMLElement>(".sidebar-list .room-row, .sidebar-list .found-row")?.focus();
          }
        }}
      />
    </div>
  );
}

/** A placeholder for the rooms, of the same size. */
function ConversationsSkeleton() {
  return (
    <div role="status" aria-label="Loading the conversations">
      {[62, 48, 70, 55, 66, 40].map((width) => (
        <div key={width} class="room-row waiting">
          <span class="skeleton circle" />
          <span class="skeleton line" style={{ width: `${width}%` }} />
        </div>
      ))}
    </div>
  );
}

function NoConversations({ filter, search }: { filter: RoomFilter; search: string }) {
  if (search.trim() !== "") return <p class="sidebar-nothing">None of your conversations has that name.</p>;
  if (filter === "unread") return <p class="sidebar-nothing">You have read everything.</p>;
  return <p class="sidebar-nothing">No conversations yet. Start one with +, or have a look at the people and rooms of this server.</p>;
}
