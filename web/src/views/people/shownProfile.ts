// Whose profile is shown in front of the page. Whatever names a person can open it.

import { signal } from "@preact/signals";

export const profileShown = signal<string | null>(null);

export function showProfile(userId: string): void {
  profileShown.value = userId;
}
