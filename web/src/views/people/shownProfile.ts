// Whose profile is shown in front of the page. Whatever names a person can open it.

import { signal } from "@preact/signals";

export const shownProfile = signal<string | null>(null);

export function showProfile(userId: string): void {
  shownProfile.value = userId;
}
