import type { Client } from "../../model/client.ts";
import { attempt } from "../components/Toasts.tsx";
import { go } from "../currentRoute.ts";

/** Goes to the direct chat with somebody, which is made if there is none. */
export async function openDirect({ roomEntry }: Client, userId: string): Promise<void> {
  await attempt(async () => go({ at: "room", id: await roomEntry.directChatWith(userId) }));
}
