// Starts a server for each test file, and signs up users with their own browsers.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll } from "vitest";

const REPOSITORY = resolve(import.meta.dirname, "../..");
const SERVER_BINARY = process.env["PARLOUR_BIN"] ?? join(process.env["CARGO_TARGET_DIR"] ?? join(REPOSITORY, "target"), "debug/parlour");
const CHROMIUM_BINARY = process.env["CHROMIUM"] ?? "/usr/bin/chromium";

export interface TestServer {
  /** The address of the page. */
  url: string;
  /** The link with the registration token for the first account. */
  firstLink: string;
  /** Stops the server cleanly and starts it again with the same data at the same address. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts a server with these variables in addition to the defaults. Registration is open. */
export async function startServer(environment: Record<string, string> = {}): Promise<TestServer> {
  if (!existsSync(SERVER_BINARY)) throw new Error(`There is no ${SERVER_BINARY}: build it with cargo build.`);
  const folder = await mkdtemp(join(tmpdir(), "parlour-page-"));
  let address = "127.0.0.1:0";
  let child: ChildProcess;
  let firstLink = "";
  const startProcess = async (): Promise<string> => {
    child = spawn(SERVER_BINARY, {
      stdio: ["ignore", "pipe", process.env["SERVER_LOG"] === undefined ? "ignore" : "inherit"],
      env: {
        ...process.env,
        PARLOUR__LISTEN__0__ADDRESS: address,
        PARLOUR__SERVER__DATA_DIR: folder,
        PARLOUR__REGISTRATION__OPEN: "true",
        PARLOUR__LIMITS__ENABLED: "false",
        ...environment,
      },
    });
    const died = new Promise<never>((_, reject) => child.once("exit", (code) => reject(new Error(`The server ended with ${code}.`))));
    died.catch(() => {});
    const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    const line = async (): Promise<string> => ((await Promise.race([lines.next(), died])).value as string | undefined) ?? "";
    const url = /https?:\/\/\S+/.exec(await line())?.[0];
    if (url === undefined) throw new Error("The server did not say where it is.");
    if (firstLink === "") firstLink = /https?:\/\/\S+/.exec(await line())?.[0] ?? "";
    return url.replace(/\/$/, "");
  };
  const stopProcess = async (): Promise<void> => {
    const ended = new Promise((done) => child.once("exit", done));
    child.kill("SIGTERM");
    await ended;
  };
  const backend = await startProcess();
  address = new URL(backend).host;
  const front = await startFront(backend);
  return {
    url: front.url,
    firstLink: firstLink.replace(backend, front.url),
    restart: async () => {
      await stopProcess();
      await startProcess();
    },
    stop: async () => {
      await front.stop();
      await stopProcess();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/**
 * Returns the address of the page. The server has the page built in; with PAGE=built the files in web/dist are served
 * through a proxy, so that a change of the page does not need a new server. The Content-Security-Policy is not tested
 * then.
 */
async function startFront(backend: string): Promise<{ url: string; stop: () => Promise<void> }> {
  if (process.env["PAGE"] !== "built") return { url: backend, stop: async () => {} };
  const { preview } = await import("vite");
  const proxy = { "/_matrix": { target: backend, ws: true }, "/_parlour": { target: backend } };
  const server = await preview({ root: join(REPOSITORY, "web"), preview: { port: 0, host: "127.0.0.1", proxy }, logLevel: "silent" });
  return { url: server.resolvedUrls!.local[0]!.replace(/\/$/, ""), stop: async () => server.close() };
}

/** A user with their own browser. */
export interface TestUser {
  name: string;
  password: string;
  userId: string;
  page: Page;
  context: BrowserContext;
  /** The errors on the page's console. */
  consoleErrors: string[];
}

/** A picture of one pixel. */
export const DOT_PNG = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkaPj/HwAEggJ/q5nNKwAAAABJRU5ErkJggg==", "base64");

export const PASSWORD = "correct horse battery";

/** The server and the browser of one test file. */
export class TestEnvironment {
  server!: TestServer;
  browser!: Browser;
  private readonly contexts: BrowserContext[] = [];

  /** Opens a browser without a session. */
  async openBrowser(options: BrowserContextOptions = {}): Promise<TestUser> {
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 800 }, locale: "en-GB", baseURL: this.server.url, ...options });
    this.contexts.push(context);
    // Shorter than the timeout of a test, so that the error names the missing element.
    context.setDefaultTimeout(15_000);
    const page = await context.newPage();
    const consoleErrors: string[] = [];
    page.on("pageerror", (error) => consoleErrors.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) consoleErrors.push(message.text());
    });
    return { name: "", password: PASSWORD, userId: "", page, context, consoleErrors };
  }

  /** Registers an account through the API and opens a browser that is signed in to it. */
  async signUp(name: string, options: BrowserContextOptions = {}): Promise<TestUser> {
    const person = await this.openBrowser(options);
    const { user_id, device_id, access_token } = await this.registerAccount(name);
    const session = JSON.stringify({ userId: user_id, deviceId: device_id, accessToken: access_token });
    await person.context.addInitScript((stored) => {
      // Only once per context, so that later changes by the page survive reloads.
      if (sessionStorage.getItem("begun") === null && window.top === window) {
        sessionStorage.setItem("begun", "yes");
        localStorage.setItem("parlour.session", stored);
      }
    }, session);
    await person.page.goto("/");
    return Object.assign(person, { name, userId: user_id });
  }

  /** Registers an account with a session. */
  async registerAccount(name: string): Promise<{ user_id: string; device_id: string; access_token: string }> {
    return (await this.request("", "POST", "/_matrix/client/v3/register", {
      username: name,
      password: PASSWORD,
      auth: { type: "m.login.dummy" },
    })) as { user_id: string; device_id: string; access_token: string };
  }

  /** Returns the access token of a user's browser. */
  async accessTokenOf(person: TestUser): Promise<string> {
    return person.page.evaluate(() => (JSON.parse(localStorage.getItem("parlour.session")!) as { accessToken: string }).accessToken);
  }

  /** Sends a request to the server directly. */
  async request(token: string, method: string, path: string, body?: unknown): Promise<Record<string, unknown>> {
    const response = await fetch(this.server.url + path, {
      method,
      headers: { ...(token === "" ? {} : { Authorization: `Bearer ${token}` }), "Content-Type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const answer = (await response.json()) as Record<string, unknown>;
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
    return answer;
  }

  async start(environment: Record<string, string>): Promise<void> {
    this.server = await startServer(environment);
    this.browser = await chromium.launch({
      executablePath: CHROMIUM_BINARY,
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    });
  }

  async stop(): Promise<void> {
    for (const context of this.contexts) await context.close();
    await this.browser?.close();
    await this.server?.stop();
  }
}

/** Sets up the environment of a test file. */
export function testEnvironment(environment: Record<string, string> = {}): TestEnvironment {
  const env = new TestEnvironment();
  beforeAll(async () => env.start(environment));
  afterAll(async () => env.stop());
  return env;
}
