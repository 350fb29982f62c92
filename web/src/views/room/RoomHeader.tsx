import { routeHref } from "../../model/route.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { relativeTime } from "../components/formatTime.ts";
import { Icon } from "../components/Icon.tsx";
import { IconButton } from "../components/IconButton.tsx";
import { type SidePanel, sidePanel } from "../sidePanel.ts";
import { useRoomContext } from "./roomContext.ts";

/** The name of the room, and the buttons of the side panels. */
export function RoomHeader() {
  const { room } = useRoomContext();
  const other = room.directWith.value;
  return (
    <header class="room-header">
      <a class="icon-button back" href={routeHref({ at: "home" })} aria-label="Back to the list" title="Back to the list">
        <Icon name="back" />
      </a>
      <div class="about">
        <Avatar id={other ?? room.id} name={room.name.value} mxc={room.avatar.value} square={other === null} presenceOf={other ?? undefined} />
        <div class="words">
          <h1 class="ellipsis" dir="auto">
            {room.name.value}
          </h1>
          <Subtitle />
        </div>
      </div>
      <PanelButton icon="search" label="Search messages" show="search" />
      <PanelButton icon="info" label="Details" show="details" />
    </header>
  );
}

function PanelButton({ icon, label, show }: { icon: "search" | "info"; label: string; show: "search" | "details" }) {
  const isOpen = sidePanel.value?.show === show;
  const next: SidePanel | null = isOpen ? null : { show };
  return <IconButton icon={icon} label={label} aria-pressed={isOpen} onClick={() => (sidePanel.value = next)} />;
}

function Subtitle() {
  const { room } = useRoomContext();
  const { presences } = useClient();
  const other = room.directWith.value;
  const count = room.joinedCount.value;
  const topic = room.topic.value;
  if (other !== null && count <= 2) return <span class="sub ellipsis">{headerPresenceText(presences.get(other))}</span>;
  const members = count === 1 ? "1 participant" : `${count.toLocaleString()} participants`;
  return (
    <span class="sub ellipsis" title={topic}>
      {members}
      {topic !== undefined && topic !== "" && (
        <>
          {" · "}
          <bdi>{topic}</bdi>
        </>
      )}
    </span>
  );
}

function headerPresenceText(presence: { presence: string; lastActive: number | undefined } | undefined): string {
  if (presence === undefined) return "";
  if (presence.presence === "online") return "online";
  return presence.lastActive === undefined ? "" : `last seen ${relativeTime(presence.lastActive)}`;
}
