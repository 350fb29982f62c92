import { useEffect, useState } from "preact/hooks";
import { type FoundUser as Person, searchUsers } from "../../model/people/userSearch.ts";
import type { PublicRoom } from "../../model/rooms/roomDirectory.ts";
import { messageOf } from "../../model/server/api.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { attempt } from "../components/Toasts.tsx";
import { navigate } from "../currentRoute.ts";

const SEARCH_DELAY_MS = 250;

interface SuggestionResults {
  people: Person[];
  rooms: PublicRoom[];
  problem: string | null;
}

/** Other matches of a search: users to talk to, and public rooms to join. */
export function SearchSuggestions({ search, onOpen }: { search: string; onOpen: () => void }) {
  const { api, parlourApi, roomDirectory, roomEntry, rooms, me } = useClient();
  const [results, setResults] = useState<SuggestionResults | null>(null);
  useEffect(() => {
    let isCurrent = true;
    const timer = setTimeout(() => {
      Promise.all([searchUsers(api, parlourApi, search), roomDirectory.publicRooms(search, undefined, 8)]).then(
        ([people, { chunk }]) => isCurrent && setResults({ people, rooms: chunk, problem: null }),
        (error: unknown) => isCurrent && setResults({ people: [], rooms: [], problem: messageOf(error) }),
      );
    }, SEARCH_DELAY_MS);
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [search]);
  if (results === null) return null;
  const open = async (work: () => Promise<string>) => {
    await attempt(async () => {
      navigate({ at: "room", id: await work() });
      onOpen();
    });
  };
  const people = results.people.filter(({ id }) => id !== me);
  const others = results.rooms.filter(({ room_id }) => rooms.get(room_id)?.membership.value !== "join");
  return (
    <>
      {results.problem !== null && <p class="problem sidebar-nothing">{results.problem}</p>}
      <SuggestionSection name="People">
        {people.map(({ id, name, avatar }) => (
          <SuggestionRow key={id} name={name} detail={id} onClick={() => void open(async () => roomEntry.directChatWith(id))}>
            <Avatar id={id} name={name} mxc={avatar} presenceOf={id} />
          </SuggestionRow>
        ))}
      </SuggestionSection>
      <SuggestionSection name="Public rooms">
        {others.map(({ room_id, name, canonical_alias, avatar_url, num_joined_members: count }) => {
          const title = name ?? canonical_alias ?? room_id;
          return (
            <SuggestionRow
              key={room_id}
              name={title}
              detail={`${count} ${count === 1 ? "person" : "people"} · join`}
              onClick={() => void open(async () => roomEntry.joinRoom(room_id))}
            >
              <Avatar id={room_id} name={title} mxc={avatar_url} square />
            </SuggestionRow>
          );
        })}
      </SuggestionSection>
    </>
  );
}

function SuggestionSection({ name, children }: { name: string; children: preact.ComponentChild[] }) {
  if (children.length === 0) return null;
  return (
    <section aria-label={name}>
      <h2 class="section-name">{name}</h2>
      <ul role="list">{children}</ul>
    </section>
  );
}

function SuggestionRow({ name, detail, onClick, children }: { name: string; detail: string; onClick: () => void; children: preact.ComponentChildren }) {
  return (
    <li>
      <button type="button" class="room-row found-row" onClick={onClick}>
        {children}
        <span class="room-text">
          <span class="room-name ellipsis" dir="auto">
            {name}
          </span>
          <span class="room-preview ellipsis">{detail}</span>
        </span>
      </button>
    </li>
  );
}
