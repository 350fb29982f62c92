// What is kept from before the login for after it, while the page stays open.

import { signal } from "@preact/signals";

/** The invite link with which somebody has just signed in or up: its room is where they want to be. */
export const pendingInviteLink = signal<string | null>(null);
