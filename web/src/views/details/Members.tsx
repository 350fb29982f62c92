import { useEffect, useState } from "preact/hooks";
import type { Member, Room } from "../../model/rooms/room.ts";
import { foldForSearch } from "../../model/rooms/roomFilter.ts";
import { useClient } from "../clientContext.ts";
import { Icon } from "../components/Icon.tsx";
import { attempt } from "../components/Toasts.tsx";
import { VirtualList } from "../components/VirtualList.tsx";
import { InviteDialog } from "./InviteDialog.tsx";
import { type MemberAction, MemberDialog } from "./MemberDialog.tsx";
import { MemberRow } from "./MemberRow.tsx";

/** The height of a row, in rem; the same as in Details.css. */
const ROW_HEIGHT_REM = 3.25;

/** The joined, knocking, invited and banned members of a room. */
export function Members({ room }: { room: Room }) {
  const { me } = useClient();
  const [search, setSearch] = useState("");
  const [inviting, setInviting] = useState(false);
  const [action, setAction] = useState<MemberAction | null>(null);
  useEffect(() => void attempt(async () => room.loadMembers()), [room]);
  room.membersChanged.value;
  const powerLevels = room.powerLevels.value;
  const words = foldForSearch(search.trim());
  const matching = (members: Member[]) => members.filter(({ name, userId }) => words === "" || foldForSearch(`${name} ${userId}`).includes(words));
  const joined = matching(room.membersWith("join")).sort(
    (a, b) => powerLevels.levelOf(b.userId) - powerLevels.levelOf(a.userId) || a.name.localeCompare(b.name),
  );
  const groups = [
    { name: "In the room", members: joined },
    { name: "Asking to join", members: matching(room.membersWith("knock")) },
    { name: "Invited", members: matching(room.membersWith("invite")) },
    { name: "Banned", members: matching(room.membersWith("ban")) },
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
          {powerLevels.may(me, "invite") && (
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
            <VirtualList
              items={members}
              keyOf={({ userId }) => userId}
              rowHeight={ROW_HEIGHT_REM}
              label={name}
              render={(member) => <MemberRow room={room} member={member} onAction={setAction} />}
            />
          </section>
        ),
      )}
      {words !== "" && groups.every(({ members }) => members.length === 0) && <p class="sidebar-nothing">No one here has that name.</p>}
      {inviting && <InviteDialog room={room} onClose={() => setInviting(false)} />}
      {action !== null && <MemberDialog room={room} action={action} onClose={() => setAction(null)} />}
    </>
  );
}
