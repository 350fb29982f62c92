// The session of this browser, kept over reloads.

import { signal } from "@preact/signals";
import type { Api } from "../server/api.ts";

export interface Session {
  userId: string;
  deviceId: string;
  accessToken: string;
}

/** The part of `localStorage` that is needed; tests have their own. */
export type BrowserStorage = Pick<globalThis.Storage, "getItem" | "setItem" | "removeItem">;

const STORAGE_KEY = "parlour.session";

export interface LoginResponse {
  user_id: string;
  device_id: string;
  access_token: string;
}

/**
 * Keeps the session of this browser. After a soft logout `expired` holds it: the server wants the password again, and
 * everything else stays.
 */
export class SessionStore {
  readonly current = signal<Session | null>(null);
  readonly expired = signal<Session | null>(null);

  constructor(
    private readonly storage: BrowserStorage,
    private readonly api: Api,
  ) {
    this.current.value = parse(storage.getItem(STORAGE_KEY));
    this.api.accessToken = this.current.value?.accessToken ?? null;
  }

  /** Starts a session with the response of `/login` or `/register`. */
  start(answer: LoginResponse): void {
    this.set({ userId: answer.user_id, deviceId: answer.device_id, accessToken: answer.access_token });
  }

  /** Ends the session because the server no longer accepts its token. */
  tokenRevoked(soft: boolean): void {
    const session = this.current.value;
    this.set(null);
    if (soft) this.expired.value = session;
  }

  /** Ends the session, here and on the server. */
  async logout(): Promise<void> {
    try {
      await this.api.post("/_matrix/client/v3/logout");
    } finally {
      this.set(null);
    }
  }

  /** Takes over a login or logout of another tab. */
  reloadFromStorage(): void {
    const session = parse(this.storage.getItem(STORAGE_KEY));
    if (session?.accessToken === this.current.value?.accessToken) return;
    this.api.accessToken = session?.accessToken ?? null;
    this.expired.value = null;
    this.current.value = session;
  }

  private set(session: Session | null): void {
    if (session === null) this.storage.removeItem(STORAGE_KEY);
    else this.storage.setItem(STORAGE_KEY, JSON.stringify(session));
    this.api.accessToken = session?.accessToken ?? null;
    this.expired.value = null;
    this.current.value = session;
  }
}

function parse(stored: string | null): Session | null {
  try {
    const session = JSON.parse(stored ?? "null") as Partial<Session> | null;
    return typeof session?.accessToken === "string" && typeof session.userId === "string"
      ? { userId: session.userId, deviceId: session.deviceId ?? "", accessToken: session.accessToken }
      : null;
  } catch {
    return null;
  }
}
