// The devices of the account, and the changes that need the password.

import { type Api, path } from "../server/api.ts";
import { passwordAnswers, withInteractiveAuth } from "../session/userInteractiveAuth.ts";

export interface Device {
  device_id: string;
  display_name?: string | null;
  last_seen_ip?: string | null;
  last_seen_ts?: number | null;
}

export class AccountSecurity {
  constructor(
    private readonly api: Api,
    private readonly me: string,
  ) {}

  /** Returns the devices, the last seen first. */
  async devices(): Promise<Device[]> {
    const { devices } = await this.api.get<{ devices: Device[] }>("/_matrix/client/v3/devices");
    return devices.sort((a, b) => (b.last_seen_ts ?? 0) - (a.last_seen_ts ?? 0));
  }

  async rename(deviceId: string, name: string): Promise<void> {
    await this.api.put(path`/_matrix/client/v3/devices/${deviceId}`, { display_name: name });
  }

  async signOut(deviceIds: string[], password: string): Promise<void> {
    await this.postWithPassword("/_matrix/client/v3/delete_devices", { devices: deviceIds }, password);
  }

  async changePassword(password: string, next: string, signOutOthers: boolean): Promise<void> {
    await this.postWithPassword("/_matrix/client/v3/account/password", { new_password: next, logout_devices: signOutOthers }, password);
  }

  /** Deactivates the account for good. */
  async deactivate(password: string, erase: boolean): Promise<void> {
    await this.postWithPassword("/_matrix/client/v3/account/deactivate", { erase }, password);
  }

  private async postWithPassword(where: string, body: Record<string, unknown>, password: string): Promise<void> {
    await withInteractiveAuth(async (auth) => this.api.post(where, { ...body, ...(auth && { auth }) }), passwordAnswers(this.me, password));
  }
}
