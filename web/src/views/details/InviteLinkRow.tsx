import { useState } from "preact/hooks";
import { routeHref } from "../../model/route.ts";
import { type InviteLink, isUnusable, usesLeft } from "../../model/server/parlourApi.ts";
import { CopyButton } from "../components/CopyButton.tsx";
import { exactTime, relativeTime } from "../components/formatTime.ts";
import { IconButton } from "../components/IconButton.tsx";
import { Lazy } from "../components/Lazy.tsx";
import { attempt } from "../components/Toasts.tsx";

/** An invite link with its remaining uses, and buttons to share or revoke it. */
export function InviteLinkRow({ link, onRevoke }: { link: InviteLink; onRevoke: () => Promise<void> }) {
  const [showsCode, setShowsCode] = useState(false);
  const [busy, setBusy] = useState(false);
  // The address of this page certainly works for the user.
  const url = `${location.origin}/${routeHref({ at: "invite", token: link.token })}`;
  const name = link.label ?? "Link";
  const left = usesLeft(link);
  const revoke = async () => {
    setBusy(true);
    await attempt(onRevoke);
    setBusy(false);
  };
  return (
    <li class={`invite-link${isUnusable(link) ? " spent" : ""}`}>
      <div class="row">
        <div class="grow">
          <p class="ellipsis" dir="auto">
            <strong>{name}</strong>
          </p>
          <p class="soft small-text">
            {left === null ? `${link.uses} ${link.uses === 1 ? "use" : "uses"}, no limit` : `${left} of ${link.max_uses} uses left`}
            {typeof link.expires_at === "number" && <span title={exactTime(link.expires_at)}> · expires {relativeTime(link.expires_at)}</span>}
          </p>
        </div>
        <CopyButton text={url} label={`Copy ${name}`} />
        <IconButton icon="qr" label={`QR code of ${name}`} aria-expanded={showsCode} onClick={() => setShowsCode(!showsCode)} />
        <IconButton icon="trash" label={`Revoke ${name}`} disabled={busy} onClick={() => void revoke()} />
      </div>
      <input class="input invite-url" readOnly value={url} aria-label={`Address of ${name}`} onFocus={(event) => event.currentTarget.select()} />
      {showsCode && <Lazy load={async () => (await import("./QrCode.tsx")).QrCode} props={{ text: url, label: `QR code of ${name}` }} />}
    </li>
  );
}
