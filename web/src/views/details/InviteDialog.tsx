import "./Invite.css";
import { useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { Dialog } from "../components/Dialog.tsx";
import { Tabs } from "../components/Tabs.tsx";
import { InviteLinks } from "./InviteLinks.tsx";
import { InvitePeople } from "./InvitePeople.tsx";

const INVITE_TABS = [
  { id: "invite-people", label: "People", icon: "user-add" },
  { id: "invite-links", label: "Links", icon: "link" },
] as const;

/** Invites people to a room, by name or with a link. */
export function InviteDialog({ room, onClose }: { room: Room; onClose: () => void }) {
  const [tab, setTab] = useState<string>("invite-people");
  return (
    <Dialog title="Invite people" onClose={onClose}>
      <Tabs label="Ways to invite" tabs={[...INVITE_TABS]} chosen={tab} onChoose={setTab}>
        {tab === "invite-people" ? <InvitePeople room={room} onDone={onClose} /> : <InviteLinks room={room} />}
      </Tabs>
    </Dialog>
  );
}
