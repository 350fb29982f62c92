import type { Client } from "../../model/client.ts";
import { attempt } from "../components/Toasts.tsx";
import { navigate } from "../currentRoute.ts";

/** Opens the direct chat with a user, and creates one if there is none. */
export async function openDirectChat({ roomEntry }: Client, userId: string): Promise<void> {
  await attempt(async () => navigate({ at: "room", id: await roomEntry.directChatWith(userId) }));
}
