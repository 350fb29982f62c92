// Web Push: the server sends notifications to this browser while the page is closed, and the service worker shows them.
// The setting belongs to the browser. The pusher follows https://github.com/matrix-org/matrix-spec-proposals/pull/4174.

import { signal } from "@preact/signals";
import { type Api, MatrixError, messageOf, path, UserFacingError } from "../server/api.ts";
import { asArray, asRecord, asString, type Content } from "../server/events.ts";
import { DEVICE_NAME } from "../session/authentication.ts";
import type { BrowserStorage } from "../session/session.ts";
import { isNotificationDetail, NOTIFICATION_DETAIL_FIELD, type NotificationDetail } from "./notificationDetail.ts";

/** A push subscription of the browser. The keys are in URL-safe base64 without padding. */
export interface PushSubscriptionInfo {
  endpoint: string;
  p256dh: string;
  auth: string;
  /** The public key of the server that may use the subscription. */
  serverKey: string | null;
}

/** The browser's functions for Web Push; tests have their own. */
export interface PushBrowser {
  /** Why this browser cannot receive notifications for a closed page; null if it can. */
  readonly unsupportedReason: string | null;
  permission(): NotificationPermission;
  requestPermission(): Promise<NotificationPermission>;
  currentSubscription(): Promise<PushSubscriptionInfo | null>;
  /** Throws a message for the user if the browser refuses. */
  subscribe(serverKey: string): Promise<PushSubscriptionInfo>;
  unsubscribe(): Promise<void>;
  /** Closes the notifications that the service worker has shown for these rooms. */
  closeNotifications(isClosed: (roomId: string) => boolean): Promise<void>;
}

interface StoredSetting {
  deviceId: string;
  detail: NotificationDetail;
  pushkey: string;
  /** Whether the server's first message was acknowledged. */
  isActive: boolean;
}

export const PERMISSION_PROBLEM = "This browser does not let the page show notifications. You can change that in the browser's settings for this site.";
const NOT_OFFERED_PROBLEM = "This server does not send notifications to closed pages.";
const ACTIVATION_PROBLEM =
  "The server's first message has not arrived yet, so nothing is shown while this page is closed. Some browsers and networks block such messages. You can turn the setting off and on again to retry.";

/** The key of the setting in the browser's storage. */
export const WEB_PUSH_STORAGE_KEY = "parlour.webPush";
const APP_ID = "org.parlour.page";
const CAPABILITY = "org.matrix.msc4174.webpush";
const PUSHER_KIND = "org.matrix.msc4174.webpush";
const PUSHERS_PATH = "/_matrix/client/v3/pushers";
const ACKNOWLEDGE_PATH = "/_matrix/client/unstable/org.matrix.msc4174/pushers/ack";
/** After this time the user is told that no message has arrived. */
const ACTIVATION_TIMEOUT_MS = 30_000;

export class WebPush {
  /** Whether the server offers Web Push; null until that is known. */
  readonly isOffered = signal<boolean | null>(null);
  /** What the notifications say; null if they are turned off. */
  readonly detail = signal<NotificationDetail | null>(null);
  /** Whether the server's first message has arrived and was acknowledged, so that others follow. */
  readonly isActive = signal(false);
  readonly problem = signal<string | null>(null);

  private serverKey: string | null = null;
  private lastTask: Promise<void> = Promise.resolve();
  private activationTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly api: Api,
    private readonly deviceId: string,
    private readonly storage: BrowserStorage,
    readonly browser: PushBrowser,
  ) {}

  /** Finds out whether the server offers Web Push. */
  async loadOffer(): Promise<void> {
    if (this.isOffered.value !== null) return;
    const { capabilities } = await this.api.get<{ capabilities?: Content }>("/_matrix/client/v3/capabilities");
    const capability = asRecord(capabilities?.[CAPABILITY]);
    this.serverKey = capability?.["enabled"] === true ? (asString(capability["vapid"]) ?? null) : null;
    this.isOffered.value = this.serverKey !== null;
  }

  /** Applies the stored setting, at the start and when the browser has changed the subscription. */
  async resume(): Promise<void> {
    await this.inOrder(async () => {
      const setting = this.storedSetting();
      this.show(setting);
      if (setting === null) return;
      try {
        if (this.browser.permission() !== "granted") throw new UserFacingError(PERMISSION_PROBLEM);
        await this.setUp(setting.detail);
      } catch (error) {
        // The browser or the server no longer allows it, so the page itself shows notifications again.
        if (error instanceof UserFacingError) this.store({ ...setting, isActive: false });
        throw error;
      }
    });
  }

  /** Turns the notifications on, or changes what they say. */
  async turnOn(detail: NotificationDetail): Promise<void> {
    // Browsers ask the user only right after a click.
    const permission = await this.browser.requestPermission();
    await this.inOrder(async () => {
      if (permission !== "granted") throw new UserFacingError(PERMISSION_PROBLEM);
      await this.setUp(detail);
    });
  }

  async turnOff(): Promise<void> {
    await this.inOrder(async () => {
      const pushkey = this.storedSetting()?.pushkey;
      this.show(null);
      await forgetWebPush(this.storage, this.browser);
      // If this fails, the server notices at the next notification that the subscription is gone.
      if (pushkey !== undefined) await this.removePusher(pushkey).catch(() => {});
    });
  }

  /** Takes over the setting from another tab, which has set or removed the pusher. */
  async reloadFromStorage(): Promise<void> {
    await this.inOrder(async () => this.show(this.storedSetting()));
  }

  /** Tells the server that its first message to a new pusher has arrived. */
  async acknowledge(appId: string, ackToken: string): Promise<void> {
    await this.inOrder(async () => {
      const pushkey = this.storedSetting()?.pushkey;
      if (appId !== APP_ID || pushkey === undefined) return;
      await this.api.post(ACKNOWLEDGE_PATH, { app_id: appId, ack_token: ackToken }).catch((error: unknown) => {
        // Another tab may have acknowledged it already.
        if (!(error instanceof MatrixError)) throw error;
      });
      const isActive = isActivated(await this.findPusher(pushkey));
      const setting = this.storedSetting();
      if (setting !== null) this.store({ ...setting, isActive });
    });
  }

  stop(): void {
    clearTimeout(this.activationTimer);
  }

  private async setUp(detail: NotificationDetail): Promise<void> {
    if (this.browser.unsupportedReason !== null) throw new UserFacingError(this.browser.unsupportedReason);
    await this.loadOffer();
    if (this.serverKey === null) throw new UserFacingError(NOT_OFFERED_PROBLEM);
    const subscription = await this.subscriptionFor(this.serverKey);
    const previous = this.storedSetting();
    if (previous !== null && previous.pushkey !== subscription.p256dh) await this.removePusher(previous.pushkey);
    let pusher = await this.findPusher(subscription.p256dh);
    // A new token comes only with a pusher that is set again.
    if (!isActivated(pusher) || !hasData(pusher, pusherData(subscription, detail))) {
      await this.setPusher(subscription, detail);
      pusher = await this.findPusher(subscription.p256dh);
    }
    this.store({ deviceId: this.deviceId, detail, pushkey: subscription.p256dh, isActive: isActivated(pusher) });
  }

  private async subscriptionFor(serverKey: string): Promise<PushSubscriptionInfo> {
    const current = await this.browser.currentSubscription();
    if (current?.serverKey === serverKey) return current;
    // A browser has one subscription, and only the server whose key it was made with can use it.
    if (current !== null) await this.browser.unsubscribe();
    return this.browser.subscribe(serverKey);
  }

  private async findPusher(pushkey: string): Promise<Content | undefined> {
    const { pushers } = await this.api.get<Content>(PUSHERS_PATH);
    return asArray(pushers)
      .map(asRecord)
      .find((pusher) => pusher?.["app_id"] === APP_ID && pusher["pushkey"] === pushkey);
  }

  private async setPusher(subscription: PushSubscriptionInfo, detail: NotificationDetail): Promise<void> {
    const device = await this.api.get<{ display_name?: string | null }>(path`/_matrix/client/v3/devices/${this.deviceId}`);
    await this.api.post(`${PUSHERS_PATH}/set`, {
      kind: PUSHER_KIND,
      app_id: APP_ID,
      app_display_name: "Parlour",
      device_display_name: device.display_name?.trim() || DEVICE_NAME,
      lang: "en",
      pushkey: subscription.p256dh,
      append: false,
      data: pusherData(subscription, detail),
    });
  }

  private async removePusher(pushkey: string): Promise<void> {
    await this.api.post(`${PUSHERS_PATH}/set`, { kind: null, app_id: APP_ID, pushkey });
  }

  /** Stores the setting. Other tabs see it, too. */
  private store(setting: StoredSetting): void {
    this.storage.setItem(WEB_PUSH_STORAGE_KEY, JSON.stringify(setting));
    this.show(setting);
  }

  private show(setting: StoredSetting | null): void {
    clearTimeout(this.activationTimer);
    this.detail.value = setting?.detail ?? null;
    this.isActive.value = setting?.isActive === true;
    if (setting === null || setting.isActive) return;
    this.activationTimer = setTimeout(() => {
      this.problem.value ??= ACTIVATION_PROBLEM;
    }, ACTIVATION_TIMEOUT_MS);
  }

  /** Returns the setting of this session; null if it is off. */
  private storedSetting(): StoredSetting | null {
    const setting = parseSetting(this.storage.getItem(WEB_PUSH_STORAGE_KEY));
    return setting?.deviceId === this.deviceId ? setting : null;
  }

  /** Runs a task after those before it, and shows its error. */
  private async inOrder(task: () => Promise<void>): Promise<void> {
    this.lastTask = this.lastTask.then(async () => {
      this.problem.value = null;
      try {
        await task();
      } catch (error) {
        this.problem.value = messageOf(error);
      }
    });
    await this.lastTask;
  }
}

/** Ends the browser's subscription, and closes what it has shown. The server removes the pusher with the device. */
export async function forgetWebPush(storage: BrowserStorage, browser: PushBrowser): Promise<void> {
  storage.removeItem(WEB_PUSH_STORAGE_KEY);
  await browser.unsubscribe();
  await browser.closeNotifications(() => true);
}

function pusherData({ endpoint, auth }: PushSubscriptionInfo, detail: NotificationDetail): Content {
  const format = detail === "nothing" ? { format: "event_id_only" } : {};
  return { url: endpoint, auth, ...format, default_payload: { [NOTIFICATION_DETAIL_FIELD]: detail } };
}

/** Whether a pusher has these data. The server adds fields to them. */
function hasData(pusher: Content | undefined, wanted: Content): boolean {
  const data = asRecord(pusher?.["data"]);
  const isSame = (field: string) => JSON.stringify(data?.[field]) === JSON.stringify(wanted[field]);
  return ["url", "auth", "format", "default_payload"].every(isSame);
}

function isActivated(pusher: Content | undefined): boolean {
  return asRecord(pusher?.["data"])?.["activated"] === true;
}

function parseSetting(stored: string | null): StoredSetting | null {
  try {
    const setting = asRecord(JSON.parse(stored ?? "null"));
    const [deviceId, detail, pushkey] = [asString(setting?.["deviceId"]), setting?.["detail"], asString(setting?.["pushkey"])];
    if (deviceId === undefined || pushkey === undefined || !isNotificationDetail(detail)) return null;
    return { deviceId, detail, pushkey, isActive: setting?.["isActive"] === true };
  } catch {
    return null;
  }
}
