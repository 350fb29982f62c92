import { useEffect, useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { messageOf } from "../../model/server/api.ts";
import { type ExpiryChoice, expiresAt, type InviteLink } from "../../model/server/parlourApi.ts";
import { useClient } from "../clientContext.ts";
import { Field, Form } from "../components/Form.tsx";
import { ExpiryField } from "./ExpiryField.tsx";
import { InviteLinkRow } from "./InviteLinkRow.tsx";

/** Creates and lists links with which anyone can join the room, with a new account if necessary. */
export function InviteLinks({ room }: { room: Room }) {
  const { parlourApi } = useClient();
  const [links, setLinks] = useState<InviteLink[] | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [expiry, setExpiry] = useState<ExpiryChoice>("week");
  useEffect(() => {
    parlourApi.inviteLinks(room.id).then(setLinks, (error: unknown) => setProblem(messageOf(error)));
  }, []);
  const create = async (data: FormData) => {
    const uses = Number(data.get("uses"));
    const label = String(data.get("label")).trim();
    const link = await parlourApi.createInviteLink(room.id, {
      expires_at: expiresAt(expiry, String(data.get("until") ?? "")),
      max_uses: uses > 0 ? uses : undefined,
      label: label === "" ? undefined : label,
    });
    setLinks([link, ...(links ?? [])]);
  };
  const revoke = async (link: InviteLink) => {
    await parlourApi.revokeInviteLink(room.id, link.token);
    setLinks((links ?? []).filter(({ token }) => token !== link.token));
  };
  return (
    <div class="invite-panel">
      <p class="soft small-text">Anyone with a link can join, and can use it to create an account on this server.</p>
      <Form onSubmit={create} submit="Create link">
        <div class="invite-limits">
          <ExpiryField label="Link expires" value={expiry} onChange={setExpiry} allowsNever={false} />
          <Field label="Number of uses" name="uses" type="number" min={1} max={1_000_000} step={1} placeholder="Any" inputMode="numeric" />
        </div>
        <Field label="Label (optional)" name="label" dir="auto" autocomplete="off" maxLength={100} placeholder="To recognise it later" />
      </Form>
      <h3 class="invite-heading">Links to this room</h3>
      {problem !== null && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {links?.length === 0 && <p class="soft small-text">There are no links yet.</p>}
      <ul class="invite-links" role="list">
        {links?.map((link) => (
          <InviteLinkRow key={link.token} link={link} onRevoke={async () => revoke(link)} />
        ))}
      </ul>
    </div>
  );
}
