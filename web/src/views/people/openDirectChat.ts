import type { Chat } from "../../model/client.ts";
import { attempt } from "../components/Toasts.tsx";
import { go } from "../currentRoute.ts";

/** Goes to the direct chat with somebody, which is made if there is none. */
export async function openDirect({ founding }: Chat, userId: string): Promise<void> {
  await attempt(async () => go({ at: "room", id: await founding.direct(userId) }));
}
