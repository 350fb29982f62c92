import "./ProfileCard.css";
import { useEffect, useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { routeHref } from "../../model/route.ts";
import { localpart } from "../../model/server/matrixId.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";
import { CopyButton } from "../components/CopyButton.tsx";
import { Dialog } from "../components/Dialog.tsx";
import { Icon } from "../components/Icon.tsx";
import { Select } from "../components/Select.tsx";
import { attempt, showToast } from "../components/Toasts.tsx";
import { openDirectChat } from "./openDirectChat.ts";
import { presenceText } from "./presenceText.ts";
import { shownProfile } from "./shownProfile.ts";

export function ProfileCard() {
  const userId = shownProfile.value;
  return userId === null ? null : <ProfileDialog key={userId} userId={userId} />;
}

/** The profile of a user: name, presence, shared rooms and actions. */
function ProfileDialog({ userId }: { userId: string }) {
  const client = useClient();
  const { accountData, me } = client;
  const [person, setPerson] = useState<{ name: string; avatar: string | undefined }>({ name: localpart(userId), avatar: undefined });
  const [inviting, setInviting] = useState(false);
  useEffect(() => {
    void client.userProfiles.fetchProfile(userId).then(setPerson, () => {});
  }, []);
  const close = () => (shownProfile.value = null);
  const ignored = accountData.ignoredUsers.value.includes(userId);
  const presence = client.presences.get(userId);
  return (
    <Dialog title="Profile" onClose={close}>
      <div class="profile-card">
        <Avatar id={userId} name={person.name} mxc={person.avatar} size="large" presenceOf={userId} />
        <h3 dir="auto">{person.name}</h3>
        <p class="row profile-id">
          <span class="soft ellipsis">{userId}</span>
          <CopyButton text={userId} label="Copy the user id" />
        </p>
        <p class="soft small-text">
          {presenceText(presence)}
          {presence?.status && <span dir="auto"> · {presence.status}</span>}
        </p>
        {userId !== me && (
          <div class="profile-actions">
            <button
              type="button"
              class="button primary"
              onClick={() => {
                close();
                void openDirectChat(client, userId);
              }}
            >
              <Icon name="chat" /> Message
            </button>
            <button type="button" class="button" onClick={() => setInviting(true)}>
              <Icon name="user-add" /> Invite to a room
            </button>
            <button type="button" class="button" onClick={() => void attempt(async () => accountData.setIgnored(userId, !ignored))}>
              {ignored ? "Stop ignoring" : "Ignore"}
            </button>
          </div>
        )}
        {ignored && <p class="soft small-text">You do not see this person's messages.</p>}
        {userId !== me && <SharedRooms userId={userId} onGo={close} />}
      </div>
      {inviting && <InviteToRoomDialog userId={userId} name={person.name} onClose={() => setInviting(false)} />}
    </Dialog>
  );
}

function SharedRooms({ userId, onGo }: { userId: string; onGo: () => void }) {
  const { userProfiles, rooms } = useClient();
  const [ids, setIds] = useState<string[]>([]);
  useEffect(() => {
    void userProfiles.sharedRooms(userId).then(setIds, () => {});
  }, []);
  const shared = ids.map((id) => rooms.get(id)).filter((room): room is Room => room?.membership.value === "join");
  if (shared.length === 0) return null;
  return (
    <section class="profile-shared" aria-labelledby="shared-rooms">
      <h3 id="shared-rooms">Rooms you share</h3>
      <ul role="list">
        {shared.map((room) => (
          <li key={room.id}>
            <a class="shared-room" href={routeHref({ at: "room", id: room.id })} onClick={onGo}>
              <Avatar id={room.id} name={room.name.value} mxc={room.avatar.value} size="small" square />
              <span class="ellipsis" dir="auto">
                {room.name}
              </span>
            </a>
          </li>
        ))}
      </ul>
    </section>
  );
}

function InviteToRoomDialog({ userId, name, onClose }: { userId: string; name: string; onClose: () => void }) {
  const { rooms, roomAdministration, me } = useClient();
  const open = rooms.joined.value.filter((room) => {
    const theirs = room.members.get(userId)?.membership;
    return room.directWith.value === null && room.powerLevels.value.may(me, "invite") && theirs !== "join" && theirs !== "invite";
  });
  const [chosen, setChosen] = useState(open[0]?.id ?? "");
  return (
    <ConfirmDialog
      title={`Invite ${name}`}
      submit="Invite"
      disabled={chosen === ""}
      onClose={onClose}
      onConfirm={async () => {
        await roomAdministration.invite(chosen, [userId]);
        showToast(`${name} has been invited.`);
      }}
    >
      {open.length === 0 ? (
        <p>There is no room that you could invite them to.</p>
      ) : (
        <Select label="Room" value={chosen} onChange={setChosen} options={open.map((room) => ({ value: room.id, label: room.name.value }))} />
      )}
    </ConfirmDialog>
  );
}
