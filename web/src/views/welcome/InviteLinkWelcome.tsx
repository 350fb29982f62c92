import { useEffect, useState } from "preact/hooks";
import { routeHref } from "../../model/route.ts";
import { type Api, MatrixError, messageOf } from "../../model/server/api.ts";
import { localpart } from "../../model/server/matrixId.ts";
import { type InviteLinkPreview, ParlourApi } from "../../model/server/parlourApi.ts";
import type { SessionStore } from "../../model/session/session.ts";
import { relativeTime } from "../components/formatTime.ts";
import { Icon } from "../components/Icon.tsx";
import { pendingInviteLink } from "../invite/pendingInviteLink.ts";
import { RegisterForm } from "./Register.tsx";
import { SignInForm } from "./SignIn.tsx";

interface Props {
  api: Api;
  sessions: SessionStore;
  server: string | null;
  token: string;
}

/** The page of an invite link for a user who is not signed in. */
export function InviteLinkWelcome({ api, sessions, server, token }: Props) {
  const [link, setLink] = useState<InviteLinkPreview | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [form, setForm] = useState<"register" | "login" | null>(null);
  useEffect(() => {
    new ParlourApi(api).previewInviteLink(token).then(setLink, (error: unknown) => {
      setProblem(error instanceof MatrixError && error.status === 404 ? "This link was revoked, used up, or has expired." : messageOf(error));
    });
  }, []);
  if (problem !== null) {
    return (
      <>
        <h1>This invitation is no longer valid</h1>
        <p class="soft">{problem} Ask for a new one.</p>
        <p class="welcome-other">
          Have an account? <a href={routeHref({ at: "login" })}>Sign in</a>
        </p>
      </>
    );
  }
  if (link === null) return <div class="skeleton welcome-room" role="status" aria-label="Loading the invitation" />;
  const begin = () => (pendingInviteLink.value = token);
  const back = (
    <button type="button" class="button" onClick={() => setForm(null)}>
      Back
    </button>
  );
  return (
    <>
      <h1>You are invited</h1>
      <LinkedRoom link={link} />
      {form === null && (
        <div class="stack">
          {link.registration && (
            <button type="button" class="button primary wide" onClick={() => setForm("register")}>
              Create an account
            </button>
          )}
          <button type="button" class={`button wide${link.registration ? "" : " primary"}`} onClick={() => setForm("login")}>
            Sign in
          </button>
        </div>
      )}
      {form === "register" && <RegisterForm api={api} sessions={sessions} server={server} token={token} onBegin={begin} />}
      {form === "login" && <SignInForm api={api} sessions={sessions} onBegin={begin} />}
      {form !== null && <div class="row">{back}</div>}
    </>
  );
}

function LinkedRoom({ link: { room, inviter, expires_at } }: { link: InviteLinkPreview }) {
  const people = room.joined_members ?? 0;
  return (
    <div class="welcome-room">
      <Icon name="chat" />
      <div class="grow">
        <strong dir="auto">{room.name ?? "A room"}</strong>
        {room.topic && (
          <p class="soft small-text" dir="auto">
            {room.topic}
          </p>
        )}
        <p class="soft small-text">
          <span dir="auto">{inviter.displayname ?? localpart(inviter.user_id)}</span> invites you
          {people > 0 && ` · ${people} ${people === 1 ? "member" : "members"}`}
          {typeof expires_at === "number" && ` · expires ${relativeTime(expires_at)}`}
        </p>
      </div>
    </div>
  );
}
