// State that is kept from before the login until after it.

import { signal } from "@preact/signals";

/** The invite link through which the user is signing in; its room is opened afterwards. */
export const pendingInviteLink = signal<string | null>(null);
