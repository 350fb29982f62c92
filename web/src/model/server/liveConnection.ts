// Receives updates live: through the WebSocket channel (docs/websocket.md), or by /sync if that does not work.

import { signal } from "@preact/signals";
import { type Api, MatrixError, NetworkError, pause } from "./api.ts";
import type { SyncUpdate } from "./events.ts";

export type ConnectionState = "connecting" | "online" | "offline";

/** The parts of a WebSocket that are used; tests have their own. */
export type Socket = Pick<WebSocket, "send" | "close" | "readyState" | "onopen" | "onmessage" | "onclose" | "onerror">;

export interface LiveConnectionOptions {
  /** The filter for /sync, as JSON. */
  filter: unknown;
  /** The presence that other users see. */
  presence: () => "online" | "offline" | "unavailable";
  openSocket?: (url: string, protocol: string) => Socket;
}

interface PendingRequest {
  resolve: (result: unknown) => void;
  reject: (error: Error) => void;
}

const PING_INTERVAL_MS = 25_000;
const RESPONSE_TIMEOUT_MS = 15_000;
const POLL_TIMEOUT_MS = 30_000;
/** After this many connections that broke before any update, /sync is used for a while. */
const MAX_FAILED_SOCKETS = 2;
const SOCKET_RETRY_DELAY_MS = 120_000;
const MAX_RECONNECT_DELAY_MS = 20_000;

const CLOSE_CODE_UNAUTHENTICATED = 4401;
const READY_STATE_OPEN = 1;

export class LiveConnection {
  readonly state = signal<ConnectionState>("connecting");
  readonly transport = signal<"websocket" | "sync" | null>(null);
  /** The token up to which updates were received. */
  since: string | null = null;

  private socket: Socket | null = null;
  private pendingRequests = new Map<string, PendingRequest>();
  private nextId = 1;
  private failedSockets = 0;
  private retrySocketsAt = 0;
  private stopController: AbortController | null = null;
  private wakeController = new AbortController();
  /** Set while the server still keeps to-device messages that were received. */
  private isAckPending = false;

  constructor(
    private readonly api: Api,
    private readonly options: LiveConnectionOptions,
    private readonly onUpdate: (update: SyncUpdate, initial: boolean) => void,
  ) {}

  start(): void {
    if (this.stopController !== null) return;
    this.stopController = new AbortController();
    void this.run(this.stopController.signal);
  }

  stop(): void {
    this.stopController?.abort();
    this.stopController = null;
    this.socket?.close();
  }

  /** Retries immediately, since the network came back or the page came to the front. */
  wake(): void {
    this.wakeController.abort();
    this.wakeController = new AbortController();
    if (this.socket?.readyState === READY_STATE_OPEN) void this.checkSocket(this.socket);
  }

  /** Whether requests can use the channel now. */
  get canRequest(): boolean {
    return this.socket?.readyState === READY_STATE_OPEN && this.transport.value === "websocket";
  }

  /**
   * Sends a request through the channel. Throws a `MatrixError` for an error response. Throws a `NetworkError` if the
   * channel breaks before the response: then it is unknown whether the request was carried out.
   */
  async request<T>(method: string, params: unknown = {}, id?: string): Promise<T> {
    const socket = this.socket;
    if (socket === null || socket.readyState !== READY_STATE_OPEN) throw new NetworkError("There is no connection.");
    return (await this.sendRequest(socket, method, params, id ?? this.takeRequestId())) as T;
  }

  private takeRequestId(): string {
    return `r${this.nextId++}`;
  }

  private async run(stopped: AbortSignal): Promise<void> {
    for (let failures = 0; !stopped.aborted; ) {
      try {
        const useSocket = this.failedSockets < MAX_FAILED_SOCKETS || Date.now() >= this.retrySocketsAt;
        if (useSocket) await this.runSocket(stopped);
        else await this.poll(stopped);
        failures = 0;
      } catch (error) {
        if (stopped.aborted) return;
        if (error instanceof MatrixError && error.isUnknownToken) return;
        failures = this.state.value === "online" ? 1 : failures + 1;
        this.state.value = "offline";
        const wait = Math.min(500 * 2 ** failures, MAX_RECONNECT_DELAY_MS) * (0.75 + Math.random() / 2);
        await this.sleep(wait, stopped);
      }
    }
  }

  /** Waits for a time, or until `wake` is called. */
  private async sleep(milliseconds: number, stopped: AbortSignal): Promise<void> {
    const signal = AbortSignal.any([stopped, this.wakeController.signal]);
    await pause(milliseconds, signal).catch(() => {});
  }

  /** Keeps one WebSocket until it closes. Throws if it broke. */
  private async runSocket(stopped: AbortSignal): Promise<void> {
    const open = this.options.openSocket ?? ((url, protocol) => new WebSocket(url, protocol));
    const url = this.api.url("/_matrix/client/unstable/stream", {
      filter: JSON.stringify(this.options.filter),
      set_presence: this.options.presence(),
      since: this.since,
    });
    const socket = open(url.replace(/^http/, "ws"), "m.json");
    this.socket = socket;
    let wasOnline = false;
    let ping: ReturnType<typeof setInterval> | undefined;
    const closeSocket = () => socket.close();
    const timeout = setTimeout(closeSocket, RESPONSE_TIMEOUT_MS);
    try {
      const closed = new Promise<number>((resolve) => {
        socket.onclose = (event) => {
          this.rejectPendingRequests();
          resolve(event.code);
        };
        socket.onerror = () => {};
      });
      stopped.addEventListener("abort", closeSocket, { once: true });
      const opened = new Promise<void>((resolve) => (socket.onopen = () => resolve()));
      await Promise.race([opened, closed]);
      clearTimeout(timeout);
      if (socket.readyState === READY_STATE_OPEN && (await this.authenticate(socket))) {
        wasOnline = true;
        this.failedSockets = 0;
        this.transport.value = "websocket";
        this.state.value = "online";
        ping = setInterval(() => void this.checkSocket(socket), PING_INTERVAL_MS);
      }
      const code = await closed;
      if (code === CLOSE_CODE_UNAUTHENTICATED) await this.whoami();
    } finally {
      clearTimeout(timeout);
      clearInterval(ping);
      stopped.removeEventListener("abort", closeSocket);
      if (this.socket === socket) this.socket = null;
      if (this.transport.value === "websocket") this.transport.value = null;
      this.rejectPendingRequests();
      socket.close();
      if (!wasOnline) this.countFailedSocket();
    }
    if (!stopped.aborted && wasOnline) throw new NetworkError("The connection was lost.");
  }

  private async authenticate(socket: Socket): Promise<boolean> {
    socket.onmessage = ({ data }) => this.handleFrame(String(data));
    try {
      await this.sendRequest(socket, "authenticate", { access_token: this.api.accessToken }, this.takeRequestId());
      return true;
    } catch (error) {
      socket.close();
      // The HTTP API says whether the token is at fault; if so, this throws.
      if (error instanceof MatrixError) await this.whoami();
      return false;
    }
  }

  private async whoami(): Promise<void> {
    await this.api.get("/_matrix/client/v3/account/whoami");
  }

  private countFailedSocket(): void {
    this.failedSockets += 1;
    if (this.failedSockets >= MAX_FAILED_SOCKETS) this.retrySocketsAt = Date.now() + SOCKET_RETRY_DELAY_MS;
  }

  private async checkSocket(socket: Socket): Promise<void> {
    try {
      await this.sendRequest(socket, "ping", {}, this.takeRequestId());
    } catch {
      socket.close();
    }
  }

  private async sendRequest(socket: Socket, method: string, params: unknown, id: string): Promise<unknown> {
    const answer = new Promise<unknown>((resolve, reject) => this.pendingRequests.set(id, { resolve, reject }));
    const timer = setTimeout(() => {
      this.pendingRequests.get(id)?.reject(new NetworkError("The server is not responding."));
      this.pendingRequests.delete(id);
      socket.close();
    }, RESPONSE_TIMEOUT_MS);
    try {
      socket.send(JSON.stringify({ id, method, params }));
      return await answer;
    } finally {
      clearTimeout(timer);
      this.pendingRequests.delete(id);
    }
  }

  private handleFrame(data: string): void {
    const frame = JSON.parse(data) as Record<string, unknown>;
    if ("id" in frame) {
      const pending = this.pendingRequests.get(String(frame["id"]));
      const error = frame["error"] as { errcode: string; error: string } | undefined;
      if (error === undefined) pending?.resolve(frame["result"]);
      else pending?.reject(new MatrixError(error.errcode === "M_LIMIT_EXCEEDED" ? 429 : 400, error.errcode, error.error, { ...error }));
    } else if (typeof frame["next_batch"] === "string") {
      this.applyUpdate(frame as unknown as SyncUpdate);
    }
  }

  private rejectPendingRequests(): void {
    for (const { reject } of this.pendingRequests.values()) reject(new NetworkError("The connection was lost."));
    this.pendingRequests.clear();
  }

  private applyUpdate(update: SyncUpdate): void {
    const initial = this.since === null;
    this.since = update.next_batch;
    this.onUpdate(update, initial);
    if ((update.to_device?.events?.length ?? 0) > 0) this.isAckPending = true;
    if (this.isAckPending && this.socket?.readyState === READY_STATE_OPEN) {
      this.isAckPending = false;
      this.request("ack", { since: update.next_batch }).catch(() => (this.isAckPending = true));
    }
  }

  /** Polls /sync until it is time to try a WebSocket again. */
  private async poll(stopped: AbortSignal): Promise<void> {
    this.transport.value = "sync";
    // After a break the first response comes immediately and shows that the server is up.
    for (let timeout = 0; !stopped.aborted && Date.now() < this.retrySocketsAt; timeout = POLL_TIMEOUT_MS) {
      const timeoutSignal = AbortSignal.timeout(timeout + 2 * RESPONSE_TIMEOUT_MS);
      const update = await this.api
        .get<SyncUpdate>(
          "/_matrix/client/v3/sync",
          { timeout, since: this.since, filter: JSON.stringify(this.options.filter), set_presence: this.options.presence() },
          { signal: AbortSignal.any([stopped, timeoutSignal]) },
        )
        .catch((error: unknown) => {
          // If the whole server is down, WebSockets are not at fault.
          this.failedSockets = 0;
          if (timeoutSignal.aborted) throw new NetworkError("The server is not responding.");
          throw error;
        });
      this.state.value = "online";
      this.applyUpdate(update);
    }
  }
}
