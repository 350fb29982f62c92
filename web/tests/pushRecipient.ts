// A user with notifications for a closed page, whose browser uses a push service of the test.

import type { CDPSession, Locator, Worker } from "playwright-core";
import { expect } from "vitest";
import type { TestEnvironment, TestUser } from "./harness.ts";
import { type PushContent, PushService } from "./pushService.ts";

export interface ShownNotification {
  title: string;
  body: string;
  tag: string;
}

/** A user whose browser has a push service of its own. */
export class Recipient {
  private session: CDPSession | undefined;
  private registrationId = "";

  private constructor(
    private readonly env: TestEnvironment,
    readonly user: TestUser,
    readonly token: string,
    readonly push: PushService,
  ) {}

  static async signUp(env: TestEnvironment, name: string): Promise<Recipient> {
    const push = new PushService();
    await push.start();
    const user = await env.signUp(name, { permissions: ["notifications"] });
    await push.replaceIn(user.context);
    await user.page.reload();
    return new Recipient(env, user, await env.accessTokenOf(user), push);
  }

  async openSettings(): Promise<void> {
    await this.user.page.goto("/#/settings/notifications");
    await this.user.page.getByRole("tabpanel", { name: "Notifications" }).waitFor();
  }

  get checkbox(): Locator {
    return this.user.page.getByRole("checkbox", { name: "Notify me when this page is closed" });
  }

  /** Turns the setting on, and delivers the first message of the server. */
  async turnOn(): Promise<PushContent> {
    await this.openSettings();
    await this.checkbox.check();
    return this.activate();
  }

  async activate(): Promise<PushContent> {
    const { content } = await this.push.nextPush();
    await this.deliver(content);
    await this.user.page.getByText("This browser receives notifications.").waitFor();
    return content;
  }

  async chooseDetail(detail: "nothing" | "sender" | "text"): Promise<void> {
    await this.user.page.getByLabel("What these notifications say").selectOption(detail);
    const isSet = ({ data }: Pusher) => data.default_payload.notification_detail === detail;
    await expect.poll(async () => (await this.pushers()).every(isSet)).toBe(true);
  }

  /** Opens another file of the server instead of the page. */
  async closePage(): Promise<void> {
    await this.user.page.goto("/assets/icon.svg");
  }

  /** Receives the server's next message at the push service, and delivers it to the service worker. */
  async receive(): Promise<PushContent> {
    const { content } = await this.push.nextPush();
    await this.deliver(content);
    return content;
  }

  /** Receives the server's next message, and waits until the service worker has shown a notification. */
  async receiveShown(): Promise<PushContent> {
    const worker = await this.worker();
    const before = await worker.evaluate(countShownNotifications);
    const content = await this.receive();
    // Chromium forgets a notification if the list of them is read while it is being shown.
    await expect.poll(async () => worker.evaluate(countShownNotifications)).toBe(before + 1);
    return content;
  }

  async deliver(content: PushContent): Promise<void> {
    const session = await this.workerSession();
    await session.send("ServiceWorker.deliverPushMessage", {
      origin: this.env.server.url,
      registrationId: this.registrationId,
      data: JSON.stringify(content),
    });
  }

  async worker(): Promise<Worker> {
    const { context } = this.user;
    return context.serviceWorkers()[0] ?? context.waitForEvent("serviceworker");
  }

  async notifications(): Promise<ShownNotification[]> {
    return (await this.worker()).evaluate(async () => {
      const { registration } = globalThis as unknown as { registration: ServiceWorkerRegistration };
      return (await registration.getNotifications()).map(({ title, body, tag }) => ({ title, body, tag }));
    });
  }

  /**
   * Clicks the only notification. Chromium opens and focuses windows only after a real click, so the worker's functions for
   * that are replaced. Returns the address that the worker wanted to open.
   */
  async clickNotification(): Promise<string | null> {
    return (await this.worker()).evaluate(async () => {
      const worker = globalThis as unknown as ClickedWorker;
      let opened: string | null = null;
      worker.clients.openWindow = async (url) => {
        opened = url;
      };
      worker.WindowClient.prototype.focus = async () => {};
      const [notification] = await worker.registration.getNotifications();
      const click = new worker.NotificationEvent("notificationclick", { notification });
      const handled: Promise<unknown>[] = [];
      click.waitUntil = (work) => void handled.push(work);
      worker.dispatchEvent(click);
      await Promise.all(handled);
      return opened;
    });
  }

  /** Ends the subscription, as a browser does when its push service no longer knows it. */
  async endSubscription(): Promise<void> {
    await this.user.page.evaluate(async () => (await (await navigator.serviceWorker.ready).pushManager.getSubscription())?.unsubscribe());
    await (await this.worker()).evaluate(() => {
      const worker = globalThis as unknown as EventTarget & { ExtendableEvent: typeof Event };
      worker.dispatchEvent(new worker.ExtendableEvent("pushsubscriptionchange"));
    });
  }

  async isSubscribed(): Promise<boolean> {
    return this.user.page.evaluate(async () => (await (await navigator.serviceWorker.ready).pushManager.getSubscription()) !== null);
  }

  async pushers(): Promise<Pusher[]> {
    return (await this.env.request(this.token, "GET", "/_matrix/client/v3/pushers"))["pushers"] as Pusher[];
  }

  private async workerSession(): Promise<CDPSession> {
    if (this.session !== undefined) return this.session;
    this.session = await this.user.context.newCDPSession(this.user.page);
    const registered = new Promise<string>((resolve) => {
      this.session!.on("ServiceWorker.workerRegistrationUpdated", ({ registrations }) => {
        if (registrations[0] !== undefined) resolve(registrations[0].registrationId);
      });
    });
    await this.session.send("ServiceWorker.enable");
    this.registrationId = await registered;
    return this.session;
  }
}

interface Pusher {
  app_id: string;
  data: { activated: boolean; default_payload: { notification_detail: string } };
}

interface ClickEvent extends Event {
  waitUntil: (work: Promise<unknown>) => void;
}

interface ClickedWorker extends EventTarget {
  registration: ServiceWorkerRegistration;
  clients: { openWindow: (url: string) => Promise<void> };
  WindowClient: { prototype: { focus: () => Promise<void> } };
  NotificationEvent: new (type: string, options: { notification: Notification | undefined }) => ClickEvent;
}

/** Runs in the service worker. Returns how many notifications it has shown since the first call. */
function countShownNotifications(): number {
  const worker = globalThis as unknown as { registration: ServiceWorkerRegistration; shownCount?: number };
  if (worker.shownCount === undefined) {
    worker.shownCount = 0;
    const show = worker.registration.showNotification.bind(worker.registration);
    worker.registration.showNotification = async (title, options) => {
      await show(title, options);
      worker.shownCount! += 1;
    };
  }
  return worker.shownCount;
}
