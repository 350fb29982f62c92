import "./Shell.css";
import { useEffect, useRef } from "preact/hooks";
import type { SessionStore } from "../../model/session/session.ts";
import { useClient } from "../clientContext.ts";
import { Icon } from "../components/Icon.tsx";
import { currentRoute } from "../currentRoute.ts";
import { Explore } from "../explore/Explore.tsx";
import { InvitePage } from "../invite/InvitePage.tsx";
import { People } from "../people/People.tsx";
import { ProfileCard } from "../people/ProfileCard.tsx";
import { RoomPage } from "../room/RoomPage.tsx";
import { Settings } from "../settings/Settings.tsx";
import { Sidebar } from "../sidebar/Sidebar.tsx";
import { DocumentTitle } from "./DocumentTitle.tsx";
import { Home } from "./Home.tsx";
import { Notifier } from "./Notifier.tsx";
import { SignOutDialog } from "./SignOutDialog.tsx";

/** The page of a signed-in user: the sidebar and the chosen view. */
export function Shell({ sessions }: { sessions: SessionStore }) {
  const at = currentRoute.value;
  const main = useRef<HTMLElement>(null);
  useEffect(() => {
    // On a phone the followed link is now hidden, so the keyboard focus moves to the main view.
    if (at.at !== "home" && document.activeElement === document.body) main.current?.focus({ preventScroll: true });
  }, [at]);
  return (
    <div class={`shell${at.at === "home" ? "" : " showing-main"}`}>
      <button type="button" class="skip-link" onClick={() => main.current?.focus()}>
        Skip to conversation
      </button>
      <ConnectionNotice />
      <Sidebar />
      <main class="main" ref={main} tabIndex={-1}>
        {mainView(at, sessions)}
      </main>
      <DocumentTitle />
      <Notifier />
      <SignOutDialog sessions={sessions} />
      <ProfileCard />
    </div>
  );
}

function mainView(at: typeof currentRoute.value, sessions: SessionStore) {
  switch (at.at) {
    case "room":
      return <RoomPage key={at.id} id={at.id} event={at.event} />;
    case "people":
      return <People />;
    case "explore":
      return <Explore />;
    case "settings":
      return <Settings tab={at.tab} sessions={sessions} />;
    case "invite":
      return <InvitePage key={at.token} token={at.token} />;
    default:
      return <Home />;
  }
}

function ConnectionNotice() {
  const { connection, rooms } = useClient();
  const offline = connection.state.value === "offline";
  return (
    <div class="connection" role="status" hidden={!offline}>
      {offline && (
        <>
          <Icon name="warning" />
          {rooms.isReady.value ? "No connection. Your messages will be sent when it is back." : "The server cannot be reached. Trying again."}
        </>
      )}
    </div>
  );
}
