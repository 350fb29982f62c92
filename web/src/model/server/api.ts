// HTTP requests of the Matrix client-server API.

/** An error response of the server, in the specification's format. */
export class MatrixError extends Error {
  constructor(
    readonly status: number,
    readonly errcode: string,
    message: string,
    readonly body: Record<string, unknown> = {},
  ) {
    super(message);
    this.name = "MatrixError";
  }

  /** Whether the access token was refused, for good or until the next login. */
  get isUnknownToken(): boolean {
    return this.status === 401 && (this.errcode === "M_UNKNOWN_TOKEN" || this.errcode === "M_MISSING_TOKEN");
  }
}

/** The server could not be reached, or sent a response that is not Matrix. */
export class NetworkError extends Error {
  override name = "NetworkError";
}

/** An error that the page itself raises; its message is shown to the user. */
export class UserFacingError extends Error {
  override name = "Refusal";
}

/** The longest wait after a 429 response; with a longer one the error is shown. */
const MAX_RETRY_WAIT_MS = 5_000;

export type QueryParameters = Record<string, string | number | boolean | undefined | null>;

export interface RequestOptions {
  query?: QueryParameters | undefined;
  body?: unknown;
  /** Sends the request without the access token. */
  anonymous?: boolean;
  signal?: AbortSignal | undefined;
  /** How often the request is repeated after a 429 response with a short wait. */
  maxRetries?: number;
}

/** A path of the Matrix API with encoded parts: `` path`/rooms/${id}/send` ``. */
export function path(parts: TemplateStringsArray, ...values: string[]): string {
  return parts.reduce((all, part, at) => all + encodeURIComponent(values[at - 1] ?? "") + part);
}

/** Sends requests to one server, with the access token of a session if there is one. */
export class Api {
  /** Called when the server refuses the access token. */
  onUnknownToken: ((error: MatrixError) => void) | null = null;

  constructor(
    readonly base: string,
    public accessToken: string | null = null,
  ) {}

  url(path: string, query: QueryParameters = {}): string {
    const url = new URL(path, this.base);
    for (const [key, value] of Object.entries(query)) {
      if (value !== undefined && value !== null) url.searchParams.set(key, String(value));
    }
    return url.href;
  }

  /** Returns the authorization header, for requests that do not use `request`, such as uploads. */
  authorization(): Record<string, string> {
    return this.accessToken === null ? {} : { Authorization: `Bearer ${this.accessToken}` };
  }

  async get<T>(path: string, query?: QueryParameters, options: RequestOptions = {}): Promise<T> {
    return this.request<T>("GET", path, { ...options, query });
  }

  async post<T>(path: string, body: unknown = {}, options: RequestOptions = {}): Promise<T> {
    return this.request<T>("POST", path, { ...options, body });
  }

  async put<T>(path: string, body: unknown = {}, options: RequestOptions = {}): Promise<T> {
    return this.request<T>("PUT", path, { ...options, body });
  }

  async delete<T>(path: string, body?: unknown, options: RequestOptions = {}): Promise<T> {
    return this.request<T>("DELETE", path, { ...options, body });
  }

  async request<T>(method: string, path: string, options: RequestOptions = {}): Promise<T> {
    const { query, body, anonymous = false, signal = null, maxRetries = 3 } = options;
    for (let attempt = 0; ; attempt++) {
      // Each attempt uses the token of its time.
      const token = this.accessToken;
      const response = await this.fetch(this.url(path, query), {
        method,
        signal,
        headers: {
          ...(anonymous ? {} : this.authorization()),
          ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      if (response.ok) return (await this.json(response)) as T;
      const error = await this.error(response);
      if (error.status === 429 && attempt < maxRetries && retryAfterMs(error) <= MAX_RETRY_WAIT_MS) {
        await pause(retryAfterMs(error), signal);
        continue;
      }
      // A late response to a previous session must not end the current one.
      if (error.isUnknownToken && !anonymous && token === this.accessToken) this.onUnknownToken?.(error);
      throw error;
    }
  }

  /** Downloads a file with the access token. */
  async blob(path: string, query?: QueryParameters, signal: AbortSignal | null = null): Promise<Blob> {
    const response = await this.fetch(this.url(path, query), { headers: this.authorization(), signal });
    if (!response.ok) throw await this.error(response);
    return response.blob();
  }

  private async fetch(url: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(url, init);
    } catch (cause) {
      if (init.signal?.aborted) throw cause;
      throw new NetworkError("The server could not be reached.", { cause });
    }
  }

  private async json(response: Response): Promise<unknown> {
    try {
      return await response.json();
    } catch (cause) {
      throw new NetworkError("The server's response was cut off.", { cause });
    }
  }

  private async error(response: Response): Promise<MatrixError> {
    const body: unknown = await response.json().catch(() => null);
    if (typeof body !== "object" || body === null) {
      if (response.status >= 500) throw new NetworkError(`The server answered with status ${response.status}.`);
      return new MatrixError(response.status, "M_UNKNOWN", `The server answered with status ${response.status}.`);
    }
    const content = { ...(body as Record<string, unknown>) };
    const { errcode, error } = content;
    const seconds = Number(response.headers.get("Retry-After") ?? NaN);
    if (response.status === 429 && Number.isFinite(seconds)) content["retry_after_ms"] ??= seconds * 1_000;
    return new MatrixError(
      response.status,
      typeof errcode === "string" ? errcode : "M_UNKNOWN",
      typeof error === "string" ? error : `The server answered with status ${response.status}.`,
      content,
    );
  }
}

/** Returns the text that a user sees for an error. */
export function messageOf(error: unknown): string {
  if (error instanceof MatrixError && error.status === 429) return `Too many attempts. Try again in ${waitText(retryAfterMs(error))}.`;
  if (error instanceof MatrixError || error instanceof NetworkError || error instanceof UserFacingError) return error.message;
  console.error(error);
  return "Something went wrong. Try again.";
}

function retryAfterMs(error: MatrixError): number {
  const wait = error.body["retry_after_ms"];
  return typeof wait === "number" ? wait : 1_000;
}

function waitText(milliseconds: number): string {
  const seconds = Math.max(1, Math.ceil(milliseconds / 1_000));
  if (seconds >= 120) return `${Math.ceil(seconds / 60)} minutes`;
  return seconds === 1 ? "a second" : `${seconds} seconds`;
}

/** Waits for a time. Throws if the signal aborts it. */
export async function pause(milliseconds: number, signal: AbortSignal | null = null): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason as Error);
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(signal.reason as Error);
      },
      { once: true },
    );
  });
}
