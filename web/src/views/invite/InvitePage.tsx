import "./Invitation.css";
import { useEffect, useState } from "preact/hooks";
import { MatrixError, messageOf } from "../../model/server/api.ts";
import { localpart } from "../../model/server/matrixId.ts";
import type { InviteLinkPreview } from "../../model/server/parlourApi.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { relativeTime } from "../components/formatTime.ts";
import { Icon } from "../components/Icon.tsx";
import { BackLink } from "../components/Page.tsx";
import { attempt } from "../components/Toasts.tsx";
import { navigate } from "../currentRoute.ts";
import { pendingInviteLink } from "./pendingInviteLink.ts";

/**
 * The page of an invite link for a signed-in user. A user who has just signed in through the link joins the room
 * immediately.
 */
export function InvitePage({ token }: { token: string }) {
  const { parlourApi, roomEntry } = useClient();
  const [link, setLink] = useState<InviteLinkPreview | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [busy, setBusy] = useState(pendingInviteLink.peek() === token);
  const redeem = async () => navigate({ at: "room", id: await roomEntry.redeemInviteLink(token) }, true);
  useEffect(() => {
    if (pendingInviteLink.peek() === token) {
      pendingInviteLink.value = null;
      redeem().catch((error: unknown) => {
        setBusy(false);
        setProblem(messageOf(error));
      });
      return;
    }
    parlourApi.previewInviteLink(token).then(setLink, (error: unknown) => {
      setProblem(error instanceof MatrixError && error.status === 404 ? "This link was revoked, used up, or has expired." : messageOf(error));
    });
  }, []);
  const join = async () => {
    setBusy(true);
    await attempt(redeem);
    setBusy(false);
  };
  return (
    <section class="invitation-page" aria-label="Invitation">
      <BackLink />
      {problem !== null && (
        <div class="empty">
          <Icon name="link" />
          <h1>This invitation is no longer valid</h1>
          <p>{problem}</p>
        </div>
      )}
      {problem === null && link === null && <div class="spinner" role="status" aria-label="Opening the invitation" />}
      {problem === null && link !== null && <InvitePreview link={link} busy={busy} onJoin={() => void join()} />}
    </section>
  );
}

function InvitePreview({ link: { room, inviter, expires_at }, busy, onJoin }: { link: InviteLinkPreview; busy: boolean; onJoin: () => void }) {
  const name = room.name ?? "A room";
  const people = room.joined_members ?? 0;
  return (
    <div class="invitation-card">
      <Avatar id={room.room_id} name={name} mxc={room.avatar_url ?? undefined} size="large" square />
      <h1 dir="auto">{name}</h1>
      <p>
        <strong dir="auto">{inviter.displayname ?? localpart(inviter.user_id)}</strong> invites you to this room
      </p>
      {room.topic && (
        <p class="soft" dir="auto">
          {room.topic}
        </p>
      )}
      <p class="soft small-text">
        {people === 1 ? "1 member" : `${people} members`}
        {typeof expires_at === "number" && ` · expires ${relativeTime(expires_at)}`}
      </p>
      <div class="invitation-answers">
        <button type="button" class="button" onClick={() => navigate({ at: "home" }, true)}>
          Not now
        </button>
        <button type="button" class="button primary" disabled={busy} onClick={onJoin}>
          Join
        </button>
      </div>
    </div>
  );
}
