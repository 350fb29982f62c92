// The user whose profile dialog is open.

import { signal } from "@preact/signals";

export const shownProfile = signal<string | null>(null);

export function showProfile(userId: string): void {
  shownProfile.value = userId;
}
