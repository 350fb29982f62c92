import { useEffect, useMemo } from "preact/hooks";
import { Client } from "../model/client.ts";
import type { Api } from "../model/server/api.ts";
import type { Session, SessionStore } from "../model/session/session.ts";
import { forgetWebPush } from "../model/settings/webPush.ts";
import { ClientContext } from "./clientContext.ts";
import { Toasts } from "./components/Toasts.tsx";
import { pushBrowser } from "./shell/pushBrowser.ts";
import { Shell } from "./shell/Shell.tsx";
import { applyTheme } from "./theme.ts";
import { Welcome } from "./welcome/Welcome.tsx";

interface Props {
  api: Api;
  sessions: SessionStore;
}

export function App({ api, sessions }: Props) {
  const session = sessions.current.value;
  const isSignedOut = session === null && sessions.expired.value === null;
  useEffect(() => {
    // Also if another device has ended the session. If it fails, the server no longer sends anything.
    if (isSignedOut) forgetWebPush(localStorage, pushBrowser).catch(() => {});
  }, [isSignedOut]);
  return (
    <>
      {session === null ? <Welcome api={api} sessions={sessions} /> : <LoggedIn key={session.accessToken} api={api} session={session} sessions={sessions} />}
      <Toasts />
    </>
  );
}

function LoggedIn({ api, session, sessions }: Props & { session: Session }) {
  const client = useMemo(() => new Client(api, session.userId, session.deviceId, localStorage, pushBrowser), []);
  useEffect(() => {
    client.start();
    const wake = () => {
      if (document.visibilityState === "visible") client.connection.wake();
    };
    addEventListener("online", wake);
    addEventListener("offline", wake);
    document.addEventListener("visibilitychange", wake);
    return () => {
      removeEventListener("online", wake);
      removeEventListener("offline", wake);
      document.removeEventListener("visibilitychange", wake);
      client.stop();
    };
  }, []);
  const theme = client.accountData.settings.value.theme;
  const isKnown = client.rooms.isReady.value;
  useEffect(() => {
    if (isKnown) applyTheme(theme);
  }, [theme, isKnown]);
  return (
    <ClientContext.Provider value={client}>
      <Shell sessions={sessions} />
    </ClientContext.Provider>
  );
}
