import "./Welcome.css";
import { useEffect, useState } from "preact/hooks";
import { type Api, messageOf } from "../../model/server/api.ts";
import { fetchRegistrationMode, fetchServerName, type RegistrationMode } from "../../model/session/authentication.ts";
import type { SessionStore } from "../../model/session/session.ts";
import { Icon } from "../components/Icon.tsx";
import { currentRoute, registrationToken } from "../currentRoute.ts";
import { InviteLinkWelcome } from "./InviteLinkWelcome.tsx";
import { Register } from "./Register.tsx";
import { SignIn } from "./SignIn.tsx";
import { SignInAgain } from "./SignInAgain.tsx";

interface Props {
  api: Api;
  sessions: SessionStore;
}

/** The page of a user who is not signed in. */
export function Welcome({ api, sessions }: Props) {
  const [server, setServer] = useState<string | null>(null);
  const [registration, setRegistration] = useState<RegistrationMode | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const find = () => {
    setProblem(null);
    fetchRegistrationMode(api).then(setRegistration, (error: unknown) => setProblem(messageOf(error)));
  };
  useEffect(() => {
    document.title = "Parlour";
    void fetchServerName(api).then(setServer);
    find();
  }, []);
  return (
    <div class="welcome">
      <Brand />
      <main class="welcome-main">
        <div class="welcome-card">
          <p class="welcome-server">
            <img src="/assets/icon.svg" alt="" width="28" height="28" />
            <span class="ellipsis">{server ?? location.host}</span>
          </p>
          {problem !== null && (
            <p class="problem" role="alert">
              {problem}{" "}
              <button type="button" class="button small" onClick={find}>
                Try again
              </button>
            </p>
          )}
          <WelcomeCard api={api} sessions={sessions} server={server} registration={registration} />
        </div>
        <p class="welcome-note">
          <Icon name="devices" />
          <span>
            Any Matrix client works here too. Where it asks for your homeserver, enter <code>{location.origin}</code>
          </span>
        </p>
      </main>
    </div>
  );
}

function WelcomeCard({ api, sessions, server, registration }: Props & { server: string | null; registration: RegistrationMode | null }) {
  const expired = sessions.expired.value;
  const at = currentRoute.value;
  const token = registrationToken();
  if (expired !== null) return <SignInAgain api={api} sessions={sessions} expired={expired} />;
  if (at.at === "invite") return <InviteLinkWelcome key={at.token} api={api} sessions={sessions} server={server} token={at.token} />;
  if (at.at === "register" || (token !== null && at.at !== "login")) {
    return <Register api={api} sessions={sessions} server={server} registration={registration} token={token} />;
  }
  return <SignIn api={api} sessions={sessions} server={server} canRegister={registration === "open" || registration === "token" || token !== null} />;
}

/** An example conversation, as decoration. */
function Brand() {
  return (
    <div class="welcome-brand" aria-hidden="true">
      <p class="welcome-name">Parlour</p>
      <p class="welcome-motto">A room of your own to talk in.</p>
      <div class="welcome-talk">
        <span class="bubble">Tea at four?</span>
        <span class="bubble own">Gladly. The garden, or by the fire?</span>
        <span class="bubble">By the fire. I'll bring the biscuits.</span>
        <span class="bubble own short">✓✓</span>
      </div>
    </div>
  );
}
