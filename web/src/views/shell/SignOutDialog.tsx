import { signal } from "@preact/signals";
import { deleteDrafts } from "../../model/composing/drafts.ts";
import type { SessionStore } from "../../model/session/session.ts";
import { Confirm } from "../components/ConfirmDialog.tsx";

export const signOutAsked = signal(false);

/** Asks before it signs out: whoever has no password at hand could not come back. */
export function SignOut({ sessions }: { sessions: SessionStore }) {
  if (!signOutAsked.value) return null;
  const close = () => (signOutAsked.value = false);
  const signOut = async () => {
    deleteDrafts(localStorage);
    await sessions.logout();
  };
  return (
    <Confirm title="Sign out?" submit="Sign out" onConfirm={signOut} onClose={close}>
      <p>You need your password to sign in again. Messages that are still being sent are lost.</p>
    </Confirm>
  );
}
