import { useState } from "preact/hooks";
import type { MatrixAddress, PublicRoom } from "../../model/rooms/roomDirectory.ts";
import { routeHref } from "../../model/route.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { Icon } from "../components/Icon.tsx";
import { attempt, showToast } from "../components/Toasts.tsx";
import { navigate } from "../currentRoute.ts";
import { openDirectChat } from "../people/openDirectChat.ts";

/** A public room with a button to join or open it. */
export function PublicRoomCard({ room }: { room: PublicRoom }) {
  const name = room.name ?? room.canonical_alias ?? room.room_id;
  return (
    <li class="public-room">
      <Avatar id={room.room_id} name={name} mxc={room.avatar_url} square />
      <div class="grow">
        <h2 class="ellipsis" dir="auto">
          {name}
        </h2>
        <p class="public-topic soft small-text" dir="auto">
          {room.topic ?? ""}
        </p>
        <p class="public-facts soft small-text">
          <span class="row">
            <Icon name="people" /> {room.num_joined_members} {room.num_joined_members === 1 ? "person" : "people"}
          </span>
          {room.canonical_alias !== undefined && <span class="ellipsis">{room.canonical_alias}</span>}
        </p>
      </div>
      <EnterRoomButton room={room} name={name} />
    </li>
  );
}

function EnterRoomButton({ room, name }: { room: PublicRoom; name: string }) {
  const { rooms, roomEntry, roomDirectory } = useClient();
  const [busy, setBusy] = useState(false);
  rooms.changed.value;
  const membership = rooms.get(room.room_id)?.membership.value;
  if (membership === "join") {
    return (
      <a class="button small" href={routeHref({ at: "room", id: room.room_id })} aria-label={`Open ${name}`}>
        Open
      </a>
    );
  }
  const run = async (work: () => Promise<unknown>) => {
    setBusy(true);
    await attempt(work);
    setBusy(false);
  };
  if (room.join_rule === "knock" || room.join_rule === "knock_restricted") {
    const knock = async () => {
      await roomDirectory.knock(room.room_id);
      showToast(`You have asked to join ${name}.`);
    };
    const hasKnocked = membership === "knock";
    return (
      <button type="button" class="button small" disabled={busy || hasKnocked} aria-label={`Ask to join ${name}`} onClick={() => void run(knock)}>
        {hasKnocked ? "Request sent" : "Ask to join"}
      </button>
    );
  }
  return (
    <button
      type="button"
      class="button primary small"
      disabled={busy}
      aria-label={`Join ${name}`}
      onClick={() => void run(async () => navigate({ at: "room", id: await roomEntry.joinRoom(room.room_id) }))}
    >
      Join
    </button>
  );
}

/** The room or user of a typed address. */
export function AddressCard({ address }: { address: MatrixAddress }) {
  const client = useClient();
  const [busy, setBusy] = useState(false);
  const run = async () => {
    setBusy(true);
    if (address.kind === "user") await openDirectChat(client, address.id);
    else await attempt(async () => navigate({ at: "room", id: await client.roomEntry.joinRoom(address.id, address.via) }));
    setBusy(false);
  };
  return (
    <div class="public-room">
      <Avatar id={address.id} name={address.id} square={address.kind === "room"} />
      <div class="grow">
        <h2 class="ellipsis">{address.id}</h2>
        <p class="soft small-text">{address.kind === "user" ? "The user with this id" : "The room with this address"}</p>
      </div>
      <button type="button" class="button primary small" disabled={busy} onClick={() => void run()}>
        {address.kind === "user" ? "Message" : "Join"}
      </button>
    </div>
  );
}
