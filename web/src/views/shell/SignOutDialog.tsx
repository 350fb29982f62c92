import { signal } from "@preact/signals";
import { deleteDrafts } from "../../model/composing/drafts.ts";
import type { SessionStore } from "../../model/session/session.ts";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";

export const isSignOutRequested = signal(false);

/** Asks before signing out, because the user needs the password to come back. */
export function SignOutDialog({ sessions }: { sessions: SessionStore }) {
  if (!isSignOutRequested.value) return null;
  const close = () => (isSignOutRequested.value = false);
  const signOut = async () => {
    deleteDrafts(localStorage);
    await sessions.logout();
  };
  return (
    <ConfirmDialog title="Sign out?" submit="Sign out" onConfirm={signOut} onClose={close}>
      <p>You need your password to sign in again. Messages that are still being sent are lost.</p>
    </ConfirmDialog>
  );
}
