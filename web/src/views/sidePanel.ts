// What stands beside the conversation.

import { signal } from "@preact/signals";

export type Panel = { show: "details" } | { show: "thread"; root: string } | { show: "search" };

export const panel = signal<Panel | null>(null);
