import "./Details.css";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { IconButton } from "../components/IconButton.tsx";
import { Tabs } from "../components/Tabs.tsx";
import { sidePanel } from "../sidePanel.ts";
import { AboutRoom } from "./AboutRoom.tsx";
import { Members } from "./Members.tsx";
import { RoomSettings } from "./RoomSettings.tsx";

const DETAILS_TABS = [
  { id: "about", label: "About" },
  { id: "members", label: "Members" },
  { id: "room-settings", label: "Settings" },
];

/** The panel with the room's details, members and settings. */
export function Details({ room }: { room: Room }) {
  const [tab, setTab] = useState("about");
  const aside = useRef<HTMLElement>(null);
  useEffect(() => {
    const before = document.activeElement;
    // After a click on the button the focus moves into the panel, but not after a change of the room.
    if (before instanceof HTMLButtonElement) aside.current?.querySelector<HTMLElement>(".close")?.focus();
    return () => {
      if (before instanceof HTMLElement && before.isConnected && document.activeElement === document.body) before.focus();
    };
  }, []);
  const close = () => (sidePanel.value = null);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || (event.target as Element).closest("dialog") !== null) return;
    event.stopPropagation();
    close();
  };
  return (
    <aside ref={aside} class="details" aria-label={`Details of ${room.name.value}`} onKeyDown={onKeyDown}>
      <header class="details-bar">
        <h2 class="grow">Details</h2>
        <IconButton icon="close" label="Close details" class="icon-button close" onClick={close} />
      </header>
      <Tabs label="Details" tabs={DETAILS_TABS} chosen={tab} onChoose={setTab}>
        {tab === "about" && <AboutRoom room={room} onMembers={() => setTab("members")} />}
        {tab === "members" && <Members room={room} />}
        {tab === "room-settings" && <RoomSettings room={room} />}
      </Tabs>
    </aside>
  );
}
