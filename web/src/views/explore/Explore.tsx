import "./Explore.css";
import { useEffect, useState } from "preact/hooks";
import { type PublicRoom, parseAddress } from "../../model/rooms/roomDirectory.ts";
import { messageOf } from "../../model/server/api.ts";
import { useClient } from "../clientContext.ts";
import { Icon } from "../components/Icon.tsx";
import { Page } from "../components/Page.tsx";
import { CreateRoom } from "./CreateRoom.tsx";
import { AddressCard, PublicRoomCard } from "./PublicRoomCard.tsx";

const SEARCH_DELAY_MS = 250;

/** The public rooms of the server. A pasted address leads to any other room. */
export function Explore() {
  const { roomDirectory } = useClient();
  const [search, setSearch] = useState("");
  const [rooms, setRooms] = useState<PublicRoom[] | null>(null);
  const [next, setNext] = useState<string | undefined>();
  const [problem, setProblem] = useState<string | null>(null);
  const [creating, setCreating] = useState(false);
  const address = parseAddress(search);

  const failed = (error: unknown) => setProblem(messageOf(error));
  useEffect(() => {
    let isCurrent = true;
    const timer = setTimeout(
      () => {
        roomDirectory.publicRooms(address === null ? search.trim() : "").then(
          ({ chunk, next_batch }) => {
            if (!isCurrent) return;
            setRooms(chunk);
            setNext(next_batch);
            setProblem(null);
          },
          (error: unknown) => isCurrent && failed(error),
        );
      },
      rooms === null ? 0 : SEARCH_DELAY_MS,
    );
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [search]);
  const more = async () => {
    const page = await roomDirectory.publicRooms(address === null ? search.trim() : "", next);
    setRooms([...(rooms ?? []), ...page.chunk]);
    setNext(page.next_batch);
  };
  return (
    <Page
      title="Explore rooms"
      tools={
        <button type="button" class="button primary small" onClick={() => setCreating(true)}>
          New room
        </button>
      }
      head={
        <div class="search-field">
          <Icon name="search" />
          <input
            type="search"
            class="input"
            aria-label="Search public rooms"
            placeholder="Search, or paste an address like #tea:example.org"
            value={search}
            onInput={(event) => setSearch(event.currentTarget.value)}
          />
        </div>
      }
    >
      {problem !== null && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {address !== null && <AddressCard address={address} />}
      {rooms === null && problem === null && <RoomsSkeleton />}
      {address === null && rooms !== null && (
        <ul class="public-rooms" role="list" aria-label="Public rooms">
          {rooms.map((room) => (
            <PublicRoomCard key={room.room_id} room={room} />
          ))}
        </ul>
      )}
      {address === null && rooms?.length === 0 && (
        <div class="empty">
          <Icon name="compass" />
          <h2>{search.trim() === "" ? "No public rooms yet" : "No public room has that name"}</h2>
          <p>{search.trim() === "" ? "Create the first one: everyone on this server will find it here." : "Try another word, or the room's address."}</p>
        </div>
      )}
      {address === null && next !== undefined && (
        <p class="public-more">
          <button type="button" class="button" onClick={() => void more().catch(failed)}>
            Show more
          </button>
        </p>
      )}
      {creating && <CreateRoom onClose={() => setCreating(false)} />}
    </Page>
  );
}

function RoomsSkeleton() {
  return (
    <div class="public-rooms" role="status" aria-label="Loading the rooms">
      {[1, 2, 3, 4].map((key) => (
        <div key={key} class="public-room skeleton" />
      ))}
    </div>
  );
}
