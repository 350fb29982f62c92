import { useEffect, useState } from "preact/hooks";
import type { Member, Room } from "../../model/rooms/room.ts";
import { foldForSearch } from "../../model/rooms/roomFilter.ts";
import { useChat } from "../clientContext.ts";
import { Icon } from "../components/Icon.tsx";
import { attempt } from "../components/Toasts.tsx";
import { Windowed } from "../components/VirtualList.tsx";
import { InviteDialog } from "./InviteDialog.tsx";
import { type MemberDeed, MemberDialog } from "./MemberDialog.tsx";
import { MemberRow } from "./MemberRow.tsx";

/** The height of a row, in rem; Details.css says the same. */
const ROW = 3.25;

/** Who is in the room, who is invited, who asks to come in, and who may not. */
export function Members({ room }: { room: Room }) {
  const { me } = useChat();
  const [search, setSearch] = useState("");
  const [inviting, setInviting] = useState(false);
  const [deed, setDeed] = useState<MemberDeed | null>(null);
  useEffect(() => void attempt(async () => room.loadMembers()), [room]);
  room.membersChanged.value;
  const powers = room.powerLevels.value;
  const words = foldForSearch(search.trim());
  const found = (members: Member[]) => members.filter(({ name, userId }) => words === "" || foldForSearch(`${name} ${userId}`).includes(words));
  const joined = found(room.membersWith("join")).sort((a, b) => powers.levelOf(b.userId) - powers.levelOf(a.userId) || a.name.localeCompare(b.name));
  const groups = [
    { name: "In the room", members: joined },
    { name: "Asking to join", members: found(room.membersWith("knock")) },
    { name: "Invited", members: found(room.membersWith("invite")) },
    { name: "Banned", members: found(room.membersWith("ban")) },
  ];
  return (
    <>
      <div class="stack">
        <div class="row">
          <div class="search-field grow">
            <Icon name="search" />
            <input
              type="search"
              class="input"
              aria-label="Search members"
              placeholder="Search"
              value={search}
              onInput={(event) => setSearch(event.currentTarget.value)}
            />
          </div>
          {powers.may(me, "invite") && (
            <button type="button" class="button primary" onClick={() => setInviting(true)}>
              Invite
            </button>
          )}
        </div>
      </div>
      {groups.map(({ name, members }) =>
        members.length === 0 ? null : (
          <section key={name} aria-label={name}>
            <h3 class="details-group">
              {name} · {name === "In the room" && words === "" ? room.joinedCount.value : members.length}
            </h3>
            <Windowed
              items={members}
              keyOf={({ userId }) => userId}
              row={ROW}
              label={name}
              render={(member) => <MemberRow room={room} member={member} onDeed={setDeed} />}
            />
          </section>
        ),
      )}
      {words !== "" && groups.every(({ members }) => members.length === 0) && <p class="sidebar-nothing">Nobody here is called that.</p>}
      {inviting && <InviteDialog room={room} onClose={() => setInviting(false)} />}
      {deed !== null && <MemberDialog room={room} deed={deed} onClose={() => setDeed(null)} />}
    </>
  );
}
