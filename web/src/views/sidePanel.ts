// The panel next to the conversation.

import { signal } from "@preact/signals";

export type SidePanel = { show: "details" } | { show: "thread"; root: string } | { show: "search" };

export const sidePanel = signal<SidePanel | null>(null);
